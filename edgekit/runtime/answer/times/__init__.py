"""Times: when the words of an answer were said, and what of an answer to a long stretch of speech stands by that."""
