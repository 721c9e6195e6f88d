"""A device, part by part: ok, missing or wrong, and what to type."""
