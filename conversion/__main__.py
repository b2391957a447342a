"""python -m conversion: turn reference checkpoints into presets."""

import argparse
import re
import sys

POSITIONS = ("learned", "sincos2d", "none")
POOLINGS = ("gap", "token", "map")


def image_size(text):
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"must be HEIGHTxWIDTH, such as 224x224; received {text!r}"
        )
    return int(match[1]), int(match[2])


def positive(text):
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"must be a positive integer; received {text!r}"
        )
    return number


def parser():
    root = argparse.ArgumentParser(
        prog="python -m conversion", description=__doc__
    )
    commands = root.add_subparsers(dest="command", required=True)
    vmoe = commands.add_parser(
        "vmoe",
        help="vision transformers of google-research/vmoe",
        description="Convert a checkpoint of vmoe's VisionTransformerMoe "
        "(Soft MoE, Expert Choice, V-MoE or dense) into a preset for "
        "MoEViTImageClassifier. What shapes tell is deduced and printed; what "
        "they do not tell is asked for by the options' names.",
    )
    vmoe.add_argument(
        "source",
        metavar="PREFIX_OR_ORBAX_DIR",
        help="path of a checkpoint without .index and .data-…, or the folder "
        "of an Orbax checkpoint",
    )
    vmoe.add_argument("out", metavar="OUT_PRESET", help="folder to write")
    vmoe.add_argument(
        "--architecture",
        metavar="NAME",
        help="a configuration of the papers, for what shapes do not tell "
        "(keras_moe.models.ARCHITECTURES)",
    )
    vmoe.add_argument(
        "--num-heads",
        type=positive,
        metavar="N",
        help="checked against the checkpoint, which tells it",
    )
    vmoe.add_argument(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="pixels of the images; learned positions of another grid are "
        "resized (default: what square learned positions tell)",
    )
    vmoe.add_argument(
        "--top-k",
        type=positive,
        metavar="K",
        help="token choice: experts that each token asks for",
    )
    vmoe.add_argument(
        "--capacity-factor",
        type=float,
        metavar="C",
        help="token choice and Expert Choice: seats in proportion to tokens",
    )
    vmoe.add_argument(
        "--capacity-rounding",
        choices=("round", "ceil"),
        help="Expert Choice: how seats are rounded (round)",
    )
    vmoe.add_argument(
        "--capacity-multiple-of",
        type=positive,
        metavar="M",
        help="seats are raised to a multiple of M (4, vmoe's default; 1 for "
        "Expert Choice that rounds)",
    )
    vmoe.add_argument(
        "--group-size",
        type=positive,
        metavar="T",
        help="tokens that are routed together (those of one image)",
    )
    vmoe.add_argument(
        "--batch-priority",
        action="store_true",
        help="token choice: seat the tokens with the largest gates first",
    )
    vmoe.add_argument(
        "--positions",
        choices=POSITIONS,
        help="needed where the checkpoint has no learned ones",
    )
    vmoe.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="checked against the checkpoint, which tells it",
    )
    vmoe.add_argument(
        "--licence",
        default="not stated",
        help="of the checkpoint, for conversion.json",
    )
    vmoe.add_argument(
        "--verify",
        metavar="EXPECTED.npz",
        help="compare the preset with images and logits (or "
        "logits_f32_dispatch), or with the checkpoint's arrays by path, and "
        "write nothing if they differ",
    )
    vmoe.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference of logits that --verify lets pass (1e-4)",
    )
    return root


def main(arguments=None):
    arguments = vars(parser().parse_args(arguments))
    from conversion import convert
    from conversion import vmoe
    from conversion.errors import ConversionError

    arguments.pop("command")
    source, out = arguments.pop("source"), arguments.pop("out")
    keywords = {
        key: arguments.pop(key) for key in ("verify", "tolerance", "licence")
    }
    try:
        convert.convert_vmoe(source, out, vmoe.Options(**arguments), **keywords)
    except (ConversionError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
