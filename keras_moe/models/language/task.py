"""Base of language tasks: a preprocessor that fits, and checked ids."""

import numbers

import keras_hub
import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe.layers.depth_router import INFERENCE
from keras_moe.models import task_inputs
from keras_moe.models.language import resizing
from keras_moe.models.language.inference_mixing import MixingTask
from keras_moe.models.presets import configurations
from keras_moe.models.presets import loading


class LanguageTask(MixingTask, loading.TaskPresets, task_inputs.CheckedTask):
    """`TaskPresets` and `inference_mixing` for a task on `MoTBackbone`."""

    _configurations = (
        *loading.TaskPresets._configurations,
        *configurations.VOCABULARY,
    )

    @classmethod
    def from_preset(cls, preset, load_weights: bool = True, **kwargs):
        """A task of a preset; sizes as in `MoTBackbone.from_preset`.

        The preset's preprocessor then makes texts of `max_sequence_length`.
        """
        sizes = sizes_of(kwargs)
        model = super().from_preset(preset, load_weights, **kwargs)
        return resizing.task(model, sizes, "preprocessor" not in kwargs)

    def check_inputs(self, x) -> None:
        """Raise an error unless `x` may be texts, or ids without them."""
        if self.preprocessor is None:
            task_inputs.check_ids("x", x)
        elif isinstance(self.preprocessor, self.preprocessor_cls):
            task_inputs.check_texts("x", x)

    def _check_read(self):
        # A tokenizer has its vocabulary only once its files are read.
        check_preprocessor(self.preprocessor, self.backbone)


def sizes_of(arguments: dict) -> dict:
    """`resizing.sizes_of`, for a task, to which a backbone may be given."""
    sizes = resizing.sizes_of(arguments)
    if sizes and "backbone" in arguments:
        raise ValueError(
            f"{' and '.join(sizes)} must be left out where backbone is given, "
            f"which has sizes of its own; received {sizes}."
        )
    return sizes


def check_backbone(backbone, expected) -> None:
    """Raise an error if a task's backbone is of another class."""
    if not isinstance(backbone, expected):
        raise ValueError(
            f"backbone must be a {expected.__name__}; received {backbone!r}."
        )


def check_preprocessor(preprocessor, backbone) -> None:
    """Raise an error if texts could become what the backbone cannot read.

    Args:
        preprocessor: of a task. Only KerasHub's kind is looked into.
        backbone: a `MoTBackbone`.
    """
    if not isinstance(preprocessor, keras_hub.models.Preprocessor):
        return
    limit = backbone.longest_sequence
    if limit is not None and preprocessor.sequence_length > limit:
        raise ValueError(
            "sequence_length of the preprocessor must be at most "
            f"max_sequence_length of the backbone, {limit}; received "
            f"{preprocessor.sequence_length}."
        )
    tokenizer = preprocessor.tokenizer
    if (
        isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer)
        and tokenizer.vocabulary
    ):
        last = max(tokenizer.vocabulary.values())
        if last >= backbone.vocabulary_size:
            raise ValueError(
                "tokenizer must have ids below vocabulary_size of the "
                f"backbone, {backbone.vocabulary_size}; received one with ids "
                f"up to {last}."
            )


def check_preprocessing(
    tokenizer, tokenizer_cls, sequence_length, flags=None, rates=None
) -> dict:
    """Arguments of a preprocessor, by name, without NumPy's scalars.

    Raises:
        ValueError: for one that does not fit.
    """
    if not isinstance(tokenizer, tokenizer_cls):
        raise ValueError(
            f"tokenizer must be a {tokenizer_cls.__name__}; received "
            f"{tokenizer!r}."
        )
    right = {
        "sequence_length": checks.integer("sequence_length", sequence_length)
    }
    for name, value in (flags or {}).items():
        right[name] = checks.flag(name, value)
    for name, value in (rates or {}).items():
        right[name] = checks.real(name, value)
        if right[name] > 1:
            raise ValueError(
                f"{name} must be a number from 0 to 1; "
                f"{checks.received(value)}."
            )
    return right


def check_length(name, length, backbone) -> None:
    """Raise an error for more tokens than a backbone has positions.

    Args:
        name: of the argument.
        length: tokens of a sequence.
        backbone: a `MoTBackbone`.
    """
    limit = backbone.longest_sequence
    if limit is not None and length > limit:
        raise ValueError(
            f"{name} must be at most max_sequence_length of the backbone, "
            f"{limit}; received {length}."
        )


def check_stop_tokens(value, preprocessor):
    """`stop_token_ids` of `generate` as `None`, `"auto"` or a tuple.

    Raises:
        ValueError: for anything else, and for `"auto"` without a tokenizer.
    """
    if value is None:
        return value
    if isinstance(value, str) and value == "auto":
        if preprocessor is None:
            raise ValueError(
                'stop_token_ids="auto" needs a preprocessor, whose tokenizer '
                "has the end token; received it for a model without one. Give "
                "a tuple of ids, or None to go on to the end."
            )
        return value
    expected = (
        'stop_token_ids must be "auto", None or a tuple of one or more ids, '
        "integers of at least 0"
    )
    is_set = isinstance(value, (list, tuple, set, frozenset, range, np.ndarray))
    if not is_set or np.ndim(value) > 1 or not len(value):
        raise ValueError(f"{expected}; {task_inputs.received(value)}.")
    ids = sorted(value) if isinstance(value, (set, frozenset)) else value
    for one in ids:
        is_id = isinstance(one, numbers.Integral) and not isinstance(one, bool)
        if not is_id or one < 0:
            raise ValueError(
                f"{expected}; {task_inputs.received(one)} in {value!r}."
            )
    return tuple(int(one) for one in ids)


def check_prompts(inputs, backbone) -> None:
    """Raise an error if these prompts cannot be continued.

    Args:
        inputs: `token_ids` and `padding_mask` (batch, tokens).
        backbone: a `MoTBackbone`.
    """
    names = ("token_ids", "padding_mask")
    if not isinstance(inputs, dict) or not set(names) <= set(inputs):
        raise ValueError(
            "inputs must be a dictionary of token_ids and padding_mask, or "
            "texts where the model has a preprocessor; "
            f"{task_inputs.received(inputs)}."
        )
    ids, mask = (_array(name, inputs[name]) for name in names)
    if ids.ndim != 2 or ids.shape != mask.shape or not ids.size:
        raise ValueError(
            "token_ids and padding_mask must have one shape (batch, tokens); "
            f"received {ids.shape} and {mask.shape}."
        )
    check_length(
        "max_length, or the length of token_ids,", ids.shape[1], backbone
    )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "padding_mask must have 1 for tokens and 0 for padding; received "
            f"{mask[~np.isin(mask, (0, 1))][0]!r}."
        )
    if ids.min() < 0 or ids.max() >= backbone.vocabulary_size:
        raise ValueError(
            "token_ids must be from 0 up to, not including, vocabulary_size, "
            f"{backbone.vocabulary_size}; received {ids.min()} to {ids.max()}."
        )
    empty = np.flatnonzero(~mask.astype(bool).any(axis=1))
    if len(empty):
        raise ValueError(
            "inputs must have at least one token in each prompt, such as the "
            "start token (add_start_token=True); received none in prompt "
            f"{empty[0]}."
        )


def _array(name, value):
    """Numbers as an array; an error for what is none."""
    kinds = "iu" if name == "token_ids" else "iubf"
    if not isinstance(value, np.ndarray):
        is_plain = value is None or isinstance(value, (list, tuple, str))
        try:
            value = np.array(value) if is_plain else ops.convert_to_numpy(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must be an array (batch, tokens); "
                f"{task_inputs.received(value)}."
            ) from error
    if value.dtype.kind not in kinds:
        raise ValueError(
            f"{name} must be integers (batch, tokens); received "
            f"{value.dtype} of shape {value.shape}."
        )
    return value


def whole_length(loader) -> dict:
    """`sequence_length` of a preset whose preprocessor has no file.

    Args:
        loader: of KerasHub, whose `config` is the backbone's.
    """
    config = loader.config.get("config", {})
    if config.get("max_sequence_length") is None:
        return {}
    return {"sequence_length": config["max_sequence_length"]}


def check_generates(backbone) -> None:
    """Refuse routers with which earlier tokens depend on later ones."""
    inference = backbone.depth_options.get("inference", INFERENCE[0])
    if backbone.depth_layers and inference == INFERENCE[0]:
        raise ValueError(
            "generate needs to know whether a token passes a block of "
            "depth_layers before later tokens are there; the backbone has "
            f"depth_options with inference={inference!r}, whose tokens "
            "compete. Models trained with inference='predictor' or "
            "'threshold' generate."
        )
    options = backbone.router_options
    if (
        backbone.router == "expert_choice"
        and options.get("selection", "top_k") == "top_k"
        and options["capacity_factor"] < options["num_experts"]
    ):
        raise ValueError(
            "generate needs a router that knows a token's experts before "
            "later tokens are there; the backbone has router="
            "'expert_choice', whose tokens compete, with "
            f"capacity_factor={options['capacity_factor']} (all tokens "
            "are taken only from num_experts, "
            f"{options['num_experts']}, on). Models trained with "
            "selection='threshold' or 'top_k_then_threshold' generate; "
            "keras_moe.upcycle(model, 'token_choice') gives it another."
        )
