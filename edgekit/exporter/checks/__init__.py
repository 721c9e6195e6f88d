"""What is proved of a bundle before it is published: census, weights, quality, goldens."""
