"""Measurements of trained presets, and their records."""
