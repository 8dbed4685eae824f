"""What several destinations share."""
