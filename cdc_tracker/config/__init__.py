"""The configuration as data: the file with its places, references to secrets, settings. Opens no store and no connection."""
