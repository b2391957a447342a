"""Old names of public fields, which work and warn for one minor release."""

import functools
import warnings


def renamed_fields(removal: str, **names: str):
    """Keep old names of a dataclass's fields as keywords and attributes.

    Each use warns with `DeprecationWarning`. Where both names are given, as
    `dataclasses.replace` gives them, the old one decides.

    Args:
        removal: version that removes the old names.
        **names: old name = new name.

    Returns:
        A decorator of dataclasses.
    """

    def decorate(cls):
        init = cls.__init__

        def warn(old):
            warnings.warn(
                f"{old} of {cls.__name__} is deprecated and will be removed "
                f"in {removal}; use {names[old]}.",
                DeprecationWarning,
                stacklevel=3,
            )

        @functools.wraps(init)
        def with_old_names(self, *args, **kwargs):
            for old in names.keys() & kwargs.keys():
                warn(old)
                kwargs[names[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        def alias(old):
            def read(self):
                warn(old)
                return getattr(self, names[old])

            return property(read, doc=f"Deprecated name of `{names[old]}`.")

        cls.__init__ = with_old_names
        for old in names:
            setattr(cls, old, alias(old))
        return cls

    return decorate
