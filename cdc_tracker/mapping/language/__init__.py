"""The expression language of mappings: syntax, functions, operators."""
