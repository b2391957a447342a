"""Errors of the zoo's commands."""


class DataError(ValueError):
    """Data that is missing, or not what it should be."""


class ResultError(ValueError):
    """Runs or results that are not there."""


class PublishError(ValueError):
    """A preset that must not or cannot be published as it is, or there."""
