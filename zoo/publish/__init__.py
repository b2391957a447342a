"""Presets in the package and on the Hub, with their cards."""
