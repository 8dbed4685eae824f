"""Mapping files: their shape, read and checked."""
