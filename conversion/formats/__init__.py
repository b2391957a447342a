"""Readers of checkpoint formats, one tensor at a time."""
