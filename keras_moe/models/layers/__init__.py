"""Layers and options that vision and language models share."""
