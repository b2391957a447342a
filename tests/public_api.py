"""Public names, signatures and headings of docstrings, one on each line.

    python -m tests.public_api

writes `tests/public_api.txt` anew; `tests/test_public_api.py` compares it.
"""

import importlib
import inspect
import pathlib

import keras_moe

PATH = pathlib.Path(__file__).with_suffix(".txt")
MODULES = sorted(
    {name for name in dir(keras_moe) if name != "__version__"}
    - set(keras_moe._FUNCTIONS)
)
PLAIN = (bool, int, float, str, tuple, type(None))


def members():
    """Yield each public path and its object: modules, their names, methods."""
    for name in MODULES:
        module = importlib.import_module(f"keras_moe.{name}")
        yield f"keras_moe.{name}", module
        for member in sorted(module.__all__):
            thing = getattr(module, member)
            yield f"keras_moe.{name}.{member}", thing
            if inspect.isclass(thing):
                yield from _methods(f"keras_moe.{name}.{member}", thing)


def _methods(path, cls):
    """Yield a class's own methods, and the described ones of its mixins.

    Those of the models: what layers inherit is for classes made from them.
    """
    found = dict(vars(cls))
    for base in cls.__mro__[1:]:
        if base.__module__.startswith(f"{keras_moe.__name__}.models."):
            described = {n: v for n, v in vars(base).items() if v.__doc__}
            found = {**described, **found}
    for name, value in sorted(found.items()):
        if name.startswith("_"):
            continue
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        if inspect.isfunction(value) or isinstance(value, property):
            yield f"{path}.{name}", value


def signature(thing) -> str:
    """Spell parameters and defaults, without annotations."""
    if isinstance(thing, property) or not callable(thing):
        return ""
    function = thing
    if inspect.isclass(thing):
        named = issubclass(thing, tuple)
        function = thing.__new__ if named else thing.__init__
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ""
    shown, marked = [], False
    for parameter in parameters:
        if parameter.name in ("self", "cls", "_cls"):
            continue
        kind, default = parameter.kind, parameter.default
        marked |= kind is parameter.VAR_POSITIONAL
        if kind is parameter.KEYWORD_ONLY and not marked:
            shown.append("*")
            marked = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        text = stars.get(kind, "") + parameter.name
        if default is not parameter.empty:
            text += f"={default!r}" if isinstance(default, PLAIN) else "=…"
        shown.append(text)
    return f"({', '.join(shown)})"


def heading(thing) -> str:
    """Return the first line of a docstring."""
    written = inspect.ismodule(thing) or callable(thing)
    if not written and not isinstance(thing, property):
        return ""
    return (thing.__doc__ or "").strip().partition("\n")[0]


def listing() -> str:
    """Return the listing of the whole API."""
    lines = [
        f"{path}{signature(thing)} | {heading(thing)}".rstrip(" |")
        for path, thing in members()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(listing(), "utf-8")
