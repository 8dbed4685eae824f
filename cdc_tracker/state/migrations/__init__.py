"""The state store's migrations. A new one is a file in `versions` and its revision at the end of REVISIONS."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
