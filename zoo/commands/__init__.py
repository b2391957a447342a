"""Commands of `python -m zoo`."""
