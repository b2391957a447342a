"""Data sets of recipes, and batches that follow from a seed."""
