"""Circuit discovery, one method in each file."""
