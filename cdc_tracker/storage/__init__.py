"""SQL stores of ours: opened, migrated, with errors translated at one boundary."""
