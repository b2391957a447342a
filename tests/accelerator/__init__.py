"""Checks and measurements for the accelerator of a machine."""
