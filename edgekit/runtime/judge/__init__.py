"""A bundle judged by the user's own code: one clip through the streaming path, compared with what is stored."""
