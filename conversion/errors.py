"""The one error that a conversion ends with."""


class ConversionError(ValueError):
    """A checkpoint, an option or a comparison that does not fit."""
