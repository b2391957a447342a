"""What the commands of the zoo end with, in words."""


class DataError(ValueError):
    """Data that is missing, or not what it should be."""


class PublishError(ValueError):
    """A preset that must not be published as it is, or there."""
