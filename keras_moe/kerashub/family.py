"""Description of a family of models, and the KerasHub code it fits."""

import hashlib
import importlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable
from typing import NamedTuple

import keras

MODELS = "keras_hub.src.models."
LAYOUT = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


class Family(NamedTuple):
    """One family of KerasHub's models.

    Args:
        name: as KerasHub's documentation calls it.
        module: module of KerasHub, below `keras_hub.src.models`.
        layer: the class in it that holds router and experts.
        call: `call(layer, implementation, *inputs)`, what the block computes.
        formulas: digests of the code of `call` that the adapter stands for,
            by the sublayer it is of, `""` for the layer itself; one digest for
            each known form of the code.
        bank: the sublayer that has the experts' weights.
        kernels: the attributes of the bank that are kernels (E,D,F).
        block: the sublayer whose `call` is replaced, `""` for the layer.
        has_experts: whether a layer of this class is a mixture of experts.
    """

    name: str
    module: str
    layer: str
    call: Callable
    formulas: dict
    bank: str
    kernels: tuple
    block: str = ""
    has_experts: Callable = lambda layer: True

    def covers(self, layer) -> bool:
        """Whether a layer is of this family's class and has experts."""
        own = MODELS + self.module, self.layer
        classes = type(layer).__mro__
        found = any((c.__module__, c.__name__) == own for c in classes)
        return found and self.has_experts(layer)

    def block_of(self, layer):
        """The layer whose `call` is replaced."""
        return sublayer(layer, self.block)

    def bank_of(self, layer):
        """The layer that has the experts' weights."""
        return sublayer(layer, self.bank)

    def has_weights(self, layer) -> bool:
        """Whether the experts of a layer of this family are built."""
        bank = getattr(layer, self.bank, None)
        return bank is not None and bank.built

    def check(self, layer) -> None:
        """Raise an error unless KerasHub computes this layer as is known."""
        for name, known in self.formulas.items():
            part = sublayer(layer, name)
            if "call" in vars(part):
                raise ValueError(
                    f"call of {part.path!r} must be that of its class, "
                    f"{type(part).__name__}; this layer has another one of "
                    "its own."
                )
            if digest(type(part).call) not in known:
                import keras_hub

                raise ValueError(
                    f"call of {part.path!r}, a {type(part).__name__}, must be "
                    f"the code that keras_moe knows of {self.name}; received "
                    f"the one in {type(part).call.__module__} (KerasHub "
                    f"{keras_hub.__version__})."
                )

    def balance_loss(self, layer, logits, mask):
        """KerasHub's own auxiliary loss, without its coefficient."""
        module = importlib.import_module(MODELS + self.module)
        if keras.backend.backend() == "tensorflow":
            # KerasHub multiplies logits in 16 bits by float32, which raises.
            logits = keras.ops.cast(logits, "float32")
        return module.compute_load_balancing_loss(
            router_logits=logits,
            num_experts=layer.num_experts,
            top_k=layer.top_k,
            attention_mask=mask,
        )


def sublayer(layer: keras.Layer, name: str) -> keras.Layer:
    """The sublayer of this name, the layer itself without one."""
    return getattr(layer, name) if name else layer


def digest(function) -> str:
    """Names the code of a function, whatever its comments and layout."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except OSError as error:
        raise ValueError(
            f"{function.__qualname__} must come with its source code, by which "
            "keras_moe knows what it computes; none was found."
        ) from error
    words, before = [], tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            continue
        documents = token.type == tokenize.STRING and before in LAYOUT
        if token.type not in LAYOUT and not documents:
            words.append(token.string)
        before = token.type
    # Not between separators: Python 3.12 cuts f-strings into more tokens.
    return hashlib.sha256("".join(words).encode()).hexdigest()[:16]
