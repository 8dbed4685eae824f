"""The types of expressions, known before any row is read, and what they say of a mapping."""
