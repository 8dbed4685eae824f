"""Mapping files: their shape, and the reader that checks them."""
