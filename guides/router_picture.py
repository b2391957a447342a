"""Draw the plans of four routers for the same six tokens and three experts.

    KERAS_BACKEND=jax python -m guides.router_picture

The layers route the tokens; each panel shows the dispatch weights of the plan
that `keras_moe.diagnostics.capture` records. The picture is
`guides/site/pages/assets/routers.svg`.
"""

import argparse
import html
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402  (the backend is chosen above)
import numpy as np  # noqa: E402

from keras_moe import diagnostics  # noqa: E402
from keras_moe import layers  # noqa: E402
from keras_moe import plan_arrays  # noqa: E402

PATH = pathlib.Path(__file__).parent / "site" / "pages" / "assets"
PATH = PATH / "routers.svg"
# Feature e of a token is its router logit for expert e.
TOKENS = np.array(
    [
        [2.2, 0.2, 0.0],
        [1.0, 0.5, 0.45],
        [1.6, 0.1, 1.5],
        [0.2, 2.0, 0.3],
        [0.4, 1.3, 0.2],
        [0.3, 0.5, 0.8],
    ],
    "float32",
)
KERNEL = np.eye(3, dtype="float32")
SLOTS = np.stack(
    [KERNEL, 0.3 + 0.35 * KERNEL + 0.5 * np.roll(KERNEL, 1, axis=1)], axis=-1
)  # (D,E,S)
TEXTS = 3  # of two tokens each, for the router below
GROUPED = "Mixture of Tokens"
FACTS = {
    "Soft MoE": (
        "reads mixtures of all tokens",
        "causal: no",
        "drops tokens: no",
        "auxiliary loss: no",
        "cost: slots ÷ tokens",
    ),
    "Expert Choice": (
        "reads whole tokens",
        "causal: only with thresholds",
        "drops tokens: yes",
        "auxiliary loss: no",
        "cost: capacity factor",
    ),
    "Token choice": (
        "reads whole tokens",
        "causal: only without capacity",
        "drops tokens: with a capacity",
        "auxiliary loss: for balance",
        "cost: top_k × capacity factor",
    ),
    "Mixture of Tokens": (
        "reads one mixture of a group",
        "causal: groups across the batch",
        "drops tokens: no",
        "auxiliary loss: no",
        "cost: experts ÷ group size",
    ),
}
COLOURS = ("#3949ab", "#e65100", "#00796b")
LEGEND = (
    "Rows are tokens, columns the slots of the experts. The area of a",
    "square is the weight with which a slot reads a token. Hatched rows",
    "are dropped tokens. Mixture of Tokens: three texts A, B, C of two",
    "tokens; slot 1 reads the first tokens, slot 2 the second ones. Costs",
    "are multiples of the work of one dense MLP.",
)
CELL, GAP, LEFT, TOP = 29, 9, 36, 76
WIDTH, HEIGHT, LINE = 262, 388, 20  # of a panel, of a line of text
MARGIN = 14


def plans() -> dict:
    """The plan of each router for the same tokens, by the router's name."""
    routers = {
        "Soft MoE": layers.SoftMoE(3, 2, intermediate_dim=2),
        "Expert Choice": layers.ExpertChoiceMoE(3, 1.0, intermediate_dim=2),
        "Token choice": layers.TokenChoiceMoE(3, 1, intermediate_dim=2),
        "Mixture of Tokens": layers.MixtureOfTokens(
            3, TEXTS, intermediate_dim=2
        ),
    }
    results = {}
    for name, layer in routers.items():
        rows = TEXTS if name == GROUPED else 1
        tokens = TOKENS.reshape(rows, -1, 3)
        layer.build(tokens.shape)
        if name == "Soft MoE":
            layer.slot_embedding.assign(SLOTS)
            layer.scale.assign(5.0)
        else:
            layer.router_kernel.assign(KERNEL)
        with diagnostics.capture() as found:
            layer(keras.ops.convert_to_tensor(tokens))
        results[name] = found[layer.path]
    return results


def dispatch(name, plan) -> np.ndarray:
    """Dispatch weights of the six tokens: (tokens, experts, slots).

    The slots of an expert of Mixture of Tokens are those of its groups.
    """
    weights, _ = plan_arrays.weights(plan)  # (G,T,E,S)
    if name != GROUPED:
        return weights[0]
    groups, texts, experts, _ = weights.shape
    table = np.zeros((texts, groups, experts, groups), "float32")
    for group in range(groups):  # the tokens at one position
        table[:, group, :, group] = weights[group, :, :, 0]
    return table.reshape(texts * groups, experts, groups)


def panel(name, weights) -> list[str]:
    """SVG elements of one router, from its dispatch weights."""
    tokens, experts, slots = weights.shape
    lines = [_text(name, 0, 20, weight="bold", size=18)]
    for expert in range(experts):
        colour, start = COLOURS[expert], _column(expert, 0, slots)
        middle = {"anchor": "middle", "colour": colour}
        label = f"expert {expert + 1}"
        lines.append(_text(label, start + slots * CELL / 2, TOP - 26, **middle))
        for slot in range(slots):
            x = start + (slot + 0.5) * CELL
            lines.append(_text(slot + 1, x, TOP - 8, size=12, **middle))
    for token in range(tokens):
        y = TOP + token * CELL
        label = token + 1
        if name == GROUPED:
            label = f"{'ABC'[token // slots]}{token % slots + 1}"
        lines.append(_text(label, LEFT - 9, y + 20, anchor="end"))
        empty = "#eceff1" if weights[token].any() else "url(#dropped)"
        for expert, slot in np.ndindex(experts, slots):
            x = _column(expert, slot, slots)
            lines.append(_square(x, y, CELL - 1, empty))
            weight = round(float(weights[token, expert, slot]), 2)
            if weight > 0:
                side = (CELL - 3) * weight**0.5
                edge = (CELL - 1 - side) / 2
                square = _square(x + edge, y + edge, side, COLOURS[expert])
                lines.append(square)
    for number, fact in enumerate(FACTS[name]):
        y = TOP + tokens * CELL + 24 + number * LINE
        lines.append(_text(fact, 0, y, size=15))
    return lines


def render() -> str:
    """The picture as SVG text."""
    width, height = 2 * WIDTH + MARGIN, 2 * HEIGHT + len(LEGEND) * LINE + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>Plans of four routers for six tokens and three experts</title>",
        '<defs><pattern id="dropped" width="6" height="6" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#fff"/>'
        '<rect width="2" height="6" fill="#b71c1c"/></pattern></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, plan) in enumerate(plans().items()):
        left = MARGIN + number % 2 * WIDTH
        top = 4 + number // 2 * HEIGHT
        lines.append(f'<g transform="translate({left} {top})">')
        lines += [*panel(name, dispatch(name, plan)), "</g>"]
    for number, text in enumerate(LEGEND):
        y = 2 * HEIGHT + 14 + number * LINE
        lines.append(_text(text, MARGIN, y, size=15, colour="#455a64"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _column(expert, slot, slots):
    """The left edge of a column."""
    return LEFT + expert * (slots * CELL + GAP) + slot * CELL


def _square(x, y, side, fill):
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" '
        f'height="{side:.1f}" fill="{fill}"/>'
    )


def _text(
    text, x, y, weight="normal", anchor="start", size=14, colour="#212121"
):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" '
        f'text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{html.escape(str(text))}</text>"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=PATH,
        metavar="FILE",
        help="Write the picture to this file (default: that of the site and "
        "the README).",
    )
    path = parser.parse_args(arguments).output
    part = path.with_name(f".{path.name}.part")
    part.write_text(render(), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
