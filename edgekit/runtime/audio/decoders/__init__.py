"""What turns a recording into samples: libsndfile, and FFmpeg's libraries for what it does not read."""
