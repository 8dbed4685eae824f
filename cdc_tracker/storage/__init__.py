"""SQL stores: opened, migrated, with errors translated at one boundary."""
