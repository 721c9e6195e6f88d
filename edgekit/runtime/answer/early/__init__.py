"""Text before the end of speech is known: partials while the user talks, and an answer that may be withdrawn."""
