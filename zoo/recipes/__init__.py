"""One module for each preset."""
