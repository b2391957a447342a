"""Reference checkpoints into presets."""
