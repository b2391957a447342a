"""python -m keras_moe plan: what a paper's model costs on many devices."""

import argparse
import re

from keras_moe import planning
from keras_moe.architectures import names
from keras_moe.commands import positive
from keras_moe.commands import positive_real

UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
MOST = 2**60  # bytes


def memory(text: str) -> int:
    """Bytes of a size such as `32GB` or `16GiB`."""
    match = re.fullmatch(r"([\d.]+) ?([A-Za-z]+)", text)
    if match is None or match[2] not in UNITS or match[1].count(".") > 1:
        raise argparse.ArgumentTypeError(
            "must be a number and one of "
            f"{', '.join(UNITS)}, such as 32GB; received {text!r}"
        )
    size = positive_real(match[1]) * UNITS[match[2]]
    if not 1 <= size <= MOST:
        raise argparse.ArgumentTypeError(
            f"must be from 1 to {MOST} bytes; received {text!r}"
        )
    return int(size)


def add_arguments(parser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--architecture",
        required=True,
        metavar="NAME",
        help="Plan this architecture of the papers: "
        + ", ".join(names())
        + ".",
    )
    parser.add_argument(
        "--devices",
        type=positive,
        default=1,
        metavar="N",
        help="Spread the model over this many devices (default: %(default)s).",
    )
    parser.add_argument(
        "--device-memory",
        type=memory,
        default="16GB",
        metavar="SIZE",
        help="Memory of one device, such as 32GB or 16GiB (default: "
        "%(default)s).",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help="Number of images on each device (default: %(default)s).",
    )
    parser.add_argument(
        "--inference",
        action="store_true",
        help="Plan inference instead of training with Adam.",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="Compute blocks again for gradients (recompute=True).",
    )
    parser.add_argument(
        "--dtype",
        choices=planning.BYTES,
        default="float32",
        help="Dtype of the activations: "
        + ", ".join(planning.BYTES)
        + " (default: %(default)s).",
    )


def report(arguments) -> str:
    """Text that the command prints.

    Raises:
        ValueError: for an architecture that there is not.
    """
    from keras_moe import models

    backbones = []

    def make():
        backbones.append(
            models.MoEViTBackbone.from_architecture(
                arguments.architecture, recompute=arguments.recompute
            )
        )
        return backbones[0]

    shapes = models.weight_shapes(make)
    plan = planning.plan(
        backbones[0],
        shapes,
        arguments.devices,
        arguments.device_memory,
        batch=arguments.batch,
        training=not arguments.inference,
        dtype=arguments.dtype,
    )
    what = "inference" if arguments.inference else "training with Adam"
    verdict = "fits" if plan.fits else "does not fit"
    gigabytes = {
        "parameters": plan.parameter_bytes,
        "activations": plan.activation_bytes,
        "together": plan.total_bytes,
        "device": plan.device_bytes,
    }
    lines = [
        f"{arguments.architecture}, without a head; {what}",
        f"parameters          {plan.parameters:>18,}",
        f"  of them experts'  {plan.expert_parameters:>18,}",
        f"GFLOP per image     {plan.flops / 1e9:>18,.1f}  (multiply-add = 2)",
        f"On each of {arguments.devices} devices, which share out experts by "
        f"{plan.expert_devices}, with {arguments.batch} images in "
        f"{arguments.dtype}:",
        *(f"{k:<20}{v / 1e9:>18,.2f} GB" for k, v in gigabytes.items()),
        f"It {verdict}, by this estimate from shapes alone.",
    ]
    return "\n".join(lines)
