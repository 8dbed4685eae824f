"""History: points in it, what a range of it would send, and what other mappings would make of it."""
