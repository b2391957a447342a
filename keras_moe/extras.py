"""Errors for packages of extras that are not installed."""


def missing(package: str, extra: str, by: str) -> ImportError:
    """The error that `by` needs `package`, which an extra installs."""
    return ImportError(
        f"{by} needs {package}; install it with "
        f"`pip install 'keras-moe[{extra}]'`."
    )
