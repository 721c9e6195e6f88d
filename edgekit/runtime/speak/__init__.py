"""How answers are spoken: one file per way of speaking, and what they are made of."""
