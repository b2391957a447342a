"""Presets: folders that hold a model, found by name, checked when read."""
