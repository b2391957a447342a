"""Texts whose tokens have the colours of their experts."""

import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe import plan_arrays
from keras_moe.layers.base import MoELayer
from keras_moe.layers.mixture_of_depths import MixtureOfDepths
from keras_moe.visualize import canvas

# Light enough for black letters.
COLOURS = ("#6db5ff", "#ffa64d", "#4fcf9a", "#e79be8", "#f2d43d", "#ff8378")
OTHERS = "#bdbdbd"


def token_experts(tokens, layer, plan, title: str | None = None):
    """Write each text with its tokens coloured by the expert they get most of.

    The six experts that are the largest for most tokens have a colour each, all
    others are grey. The fuller the colour, the larger the share of that expert
    in what the token receives; a dropped token is white. Of `MixtureOfDepths`,
    the tokens that pass are coloured, as those of one expert.

    Args:
        tokens: lists of strings, one list for a text, all equally long.
        layer: the keras_moe layer, `plans.layers[path]` of
            `diagnostics.capture`.
        plan: its plan for these texts, `plans[path]`.
        title: a line above everything.

    Returns:
        A matplotlib figure that belongs to no window; `savefig` writes it.

    Raises:
        ValueError: if an argument is not of its kind, or tokens, layer and
            plan do not fit each other.
    """
    texts, length = _check_tokens(tokens)
    if not isinstance(layer, (MoELayer, MixtureOfDepths)):
        raise ValueError(
            "layer must be the keras_moe layer of the plan, "
            f"plans.layers[path]; {checks.received(layer)}."
        )
    canvas.check_title(title)
    share = _received(layer, plan, texts, length)  # (texts,length,E)
    most = share.argmax(axis=-1)
    total = share.sum(axis=-1)
    fullness = share.max(axis=-1) / np.maximum(total, 1e-30)
    colours, labels = expert_colours(most[total > 0], share.shape[-1])
    columns = max(1, min(len(labels), length // 5))
    legend = 0.17 * -(-len(labels) // columns)
    figure = canvas.new_figure(0.22 * length + 0.4, 0.3 * texts + legend + 0.5)
    axis = figure.subplots()
    picture = np.ones((texts, length, 4))
    picture[..., :3] = colours[most]
    picture[..., 3] = np.where(total > 0, 0.15 + 0.85 * fullness, 0.0)
    axis.imshow(picture, aspect="auto")
    for row, text in enumerate(tokens):
        for column, token in enumerate(text):
            axis.text(
                column,
                row,
                _visible(token),
                ha="center",
                va="center",
                fontsize=7,
                parse_math=False,
            )
    canvas.blank(axis)
    for label, colour in labels.items():
        axis.plot([], [], "s", color=colour, label=label)
    axis.set_xlim(-0.5, length - 0.5)
    axis.set_ylim(texts - 0.5, -0.5)
    figure.legend(loc="outside lower left", ncols=columns, fontsize=6)
    figure.suptitle(title, fontsize=9)
    return figure


def _check_tokens(tokens):
    """Number and length of the texts."""
    if not isinstance(tokens, (list, tuple, np.ndarray)):
        raise ValueError(
            "tokens must be lists of strings, one list for a text; "
            f"{checks.received(tokens)}."
        )
    for text in tokens:
        if not isinstance(text, (str, list, tuple, np.ndarray)):
            raise ValueError(
                "tokens must be lists of strings, one list for a text; "
                f"received a text that is {text!r} ({type(text).__name__})."
            )
        for token in text:
            if not isinstance(token, str):
                raise ValueError(
                    "tokens must be lists of strings; received a token that "
                    f"is {token!r} ({type(token).__name__})."
                )
    lengths = {len(text) for text in tokens}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "tokens must be lists of strings, equally long and not empty; "
            f"received lengths {[len(text) for text in tokens]}."
        )
    return len(tokens), lengths.pop()


def _received(layer, plan, texts, length):
    """Weights of each expert for each token: (texts,length,E)."""
    if isinstance(layer, MixtureOfDepths):  # whose weights may be negative
        passed = plan_arrays.shares(plan)[0].sum(axis=-1)  # (B,T,1)
        if passed.shape != (texts, length, 1):
            raise ValueError(
                f"plan must be of {texts} texts of {length} tokens; it has "
                f"{passed.shape[:2]}."
            )
        return passed
    _, taken = canvas.weights(plan)
    taken = taken.sum(axis=-1)  # (G,T,E)
    # Numbered tokens, grouped as the layer groups them, tell who is where;
    # 0 is what a layer adds to fill a group.
    numbers = np.arange(1, texts * length + 1, dtype="float32")
    numbers = ops.convert_to_tensor(numbers.reshape(texts, length, 1))
    if taken.shape[-1] != layer.num_experts:
        raise ValueError(
            f"plan must be of {layer.name!r}, which has {layer.num_experts} "
            f"experts; it has {taken.shape[-1]}."
        )
    numbers, _, _ = layer.split(numbers, None, training=False)
    numbers = ops.convert_to_numpy(numbers)[..., 0].astype(int)  # (G,T)
    if numbers.shape != taken.shape[:2]:
        raise ValueError(
            f"plan must be of {texts} texts of {length} tokens, which make "
            f"groups of shape {numbers.shape} in {layer.name!r}; it has "
            f"{taken.shape[:2]}."
        )
    share = np.zeros((texts * length + 1, taken.shape[-1]), "float32")
    share[numbers.reshape(-1)] = taken.reshape(-1, taken.shape[-1])
    return share[1:].reshape(texts, length, -1)


def _visible(token):
    return token.replace(" ", "␣").replace("\n", "↵")


def expert_colours(most, number):
    """The colour of each expert, (E,3), and the legend {label: colour}.

    Args:
        most: integers (n,), the expert with the largest share, of each token.
        number: of the experts.
    """
    from matplotlib.colors import to_rgb

    counts = np.bincount(most, minlength=number)
    busiest = np.argsort(-counts, kind="stable")[: len(COLOURS)]
    busiest = np.sort(busiest[counts[busiest] > 0])
    colours = np.tile(to_rgb(OTHERS), (number, 1))
    labels = {}
    for expert, colour in zip(busiest, COLOURS):
        colours[expert] = to_rgb(colour)
        labels[f"expert {expert}"] = colour
    others = np.count_nonzero(counts) - len(busiest)
    if others:
        labels[f"{others} other expert{'s' if others > 1 else ''}"] = OTHERS
    return colours, labels
