"""Mappings and a relation compiled to Python functions."""
