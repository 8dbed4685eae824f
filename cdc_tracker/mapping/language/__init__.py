"""The expression language of mappings."""
