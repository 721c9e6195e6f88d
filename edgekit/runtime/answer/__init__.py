"""What is answered: the backbone's side of a stream, its tokens and texts, and the speaker's protocol."""
