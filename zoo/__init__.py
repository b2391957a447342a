"""Recipes of the presets, and the tools that train and check them."""
