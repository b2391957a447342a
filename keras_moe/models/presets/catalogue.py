"""Catalogue of the presets and of the places where each is found.

The list is a file of the package, `presets/catalogue.json`, which
`python -m zoo table` writes from recipes, sources of checkpoints and the record
of what was published.
"""

import pathlib

import keras

import keras_moe
from keras_moe import files

FOLDER = pathlib.Path(keras_moe.__file__).parent / "presets"
PATH = FOLDER / "catalogue.json"


class classproperty(property):
    """A property of the class itself, such as KerasHub's `presets`."""

    def __get__(self, _, owner):
        return self.fget(owner)


def embedded() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(p.parent.name for p in FOLDER.glob("*/config.json"))


def list_presets() -> dict[str, dict]:
    """Every preset by name: what it is, and where it lives.

    Returns:
        {name: entry}; each entry a dictionary of

        - `"metadata"`: `"description"`, `"params"` (how many) and `"licence"`
          of the weights.
        - `"model"`, `"backbone"`: names of the classes.
        - `"places"`: where it lives. `"embedded"` is the name that
          `from_preset` finds in the package, `"hub"` the handle of the
          repository that it was published to, `"convertible"` the address of
          the published checkpoint of which `python -m zoo build NAME`, from a
          clone, makes it.

    The attribute `presets` of a model's class has those of the class.

    Example:

    >>> from keras_moe import models
    >>> presets = models.list_presets()
    >>> presets["mot_tiny_shakespeare"]["places"]["embedded"]
    'mot_tiny_shakespeare'
    >>> presets["mixture_of_tokens_573m"]["places"]["convertible"]
    'hf://jaszczur/mixture_of_tokens'
    >>> "mot_tiny_shakespeare" in models.MoTCausalLM.presets
    True
    >>> "mot_tiny_shakespeare" in models.MoEViTImageClassifier.presets
    False
    """
    return files.read_json(PATH)


def presets_of(model) -> dict[str, dict]:
    """The entries of `list_presets` whose model or backbone a class is."""
    names = {one.__name__ for one in model.__mro__}
    return {
        name: entry
        for name, entry in list_presets().items()
        if names & {entry["model"], entry["backbone"]}
    }


def presets_with(part) -> dict[str, dict]:
    """The entries of `list_presets` whose model reads inputs by a class.

    Args:
        part: class of a preprocessor, a tokenizer or an image converter.
    """
    found = {}
    for name, entry in list_presets().items():
        model = keras.saving.get_registered_object(
            f"keras_moe>{entry['model']}"
        )
        reader = getattr(model, "preprocessor_cls", None)
        parts = (
            reader,
            getattr(reader, "tokenizer_cls", None),
            getattr(reader, "image_converter_cls", None),
        )
        if set(parts) & set(part.__mro__):
            found[name] = entry
    return found


def places_of(name) -> dict[str, str]:
    """Places of a preset, empty for an unknown name."""
    return list_presets().get(name, {}).get("places", {})


def table() -> str:
    """The presets as lines of text, columns one below the other."""
    texts = {
        "embedded": "in the package",
        "hub": "{}",
        "convertible": "to be made of {} by `python -m zoo build`",
    }
    rows = [("name", "class", "parameters", "where")]
    rows += [
        (
            name,
            entry["model"],
            f"{entry['metadata']['params']:,}",
            "; ".join(
                texts[place].format(address)
                for place, address in entry["places"].items()
            ),
        )
        for name, entry in list_presets().items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        f"{name:<{widths[0]}}  {model:<{widths[1]}}  {count:>{widths[2]}}  "
        f"{where}"
        for name, model, count, where in rows
    )
