"""What a person can do or ask, as functions that return values and print nothing."""
