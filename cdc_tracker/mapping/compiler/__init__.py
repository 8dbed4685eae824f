"""Compiles mappings and a relation to Python functions."""
