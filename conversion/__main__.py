"""python -m conversion: turn reference checkpoints into presets."""

import argparse
import re

from keras_moe import commands as running  # first: Ctrl-C is caught from here

# isort: split

from conversion import options
from keras_moe import architectures

TEXTS = "token_ids and logits"


def image_size(text):
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"must be HEIGHTxWIDTH, such as 224x224; received {text!r}"
        )
    return int(match[1]), int(match[2])


def parser():
    root = argparse.ArgumentParser(
        prog="python -m conversion", description=__doc__
    )
    commands = root.add_subparsers(dest="command", required=True)
    _add_vmoe(commands)
    _add_mot(commands)
    _add_llm_random(commands)
    return root


def _add_record_and_check(command, expected, tolerance):
    """Options that every command has."""
    command.add_argument(
        "--licence",
        default="not stated",
        metavar="TEXT",
        help="Licence of the checkpoint, for conversion.json (default: "
        "%(default)s).",
    )
    command.add_argument(
        "--verify",
        metavar="EXPECTED.npz",
        help=f"Compare the preset with this file of {expected}; write nothing "
        f"if "
        "they differ.",
    )
    command.add_argument(
        "--tolerance",
        type=running.tolerance,
        default=tolerance,
        metavar="X",
        help="Largest difference of logits that --verify accepts "
        f"(default: {tolerance:.0e}).",
    )


def _add_vmoe(commands):
    vmoe = commands.add_parser(
        "vmoe",
        help="Convert a vision transformer or two towers of "
        "google-research/vmoe.",
        description="Convert a checkpoint of vmoe's VisionTransformerMoe "
        "(Soft MoE, Expert Choice, V-MoE or dense) into a preset for "
        "MoEViTImageClassifier, or one of its TwoTower into a preset for "
        "MoETwoTower without a tokenizer. What its shapes determine is deduced "
        "and printed; an error names the options that give the rest.",
    )
    vmoe.add_argument(
        "source",
        metavar="PREFIX_OR_ORBAX_DIR",
        help="Path of a checkpoint without .index and .data-…, or the folder "
        "of an Orbax checkpoint.",
    )
    vmoe.add_argument(
        "out", metavar="OUT_PRESET", help="Write the preset to this folder."
    )
    vmoe.add_argument(
        "--architecture",
        metavar="NAME",
        help="Take options that shapes do not determine from this architecture "
        "of the papers: " + ", ".join(architectures.names()) + ".",
    )
    vmoe.add_argument(
        "--num-heads",
        type=running.positive,
        metavar="N",
        help="Number of attention heads; it must fit the checkpoint.",
    )
    vmoe.add_argument(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="Size of the images in pixels; learned positions of another grid "
        "are resized (default: the size that square learned positions give).",
    )
    vmoe.add_argument(
        "--top-k",
        type=running.positive,
        metavar="K",
        help="Token choice: number of experts of each token. Without it a hard "
        "router is read as Expert Choice, which has the same weights.",
    )
    vmoe.add_argument(
        "--capacity-factor",
        type=running.positive_real,
        metavar="C",
        help="Token choice and Expert Choice: capacity factor of the experts.",
    )
    vmoe.add_argument(
        "--capacity-rounding",
        choices=options.choices(options.VmoeOptions, "capacity_rounding"),
        help="Round the capacity to the nearest integer (round) or up (ceil); "
        "default: round for Expert Choice, ceil for token choice.",
    )
    vmoe.add_argument(
        "--capacity-multiple-of",
        type=running.positive,
        metavar="M",
        help="Raise the capacity to a multiple of M (default: 4, as vmoe; 1 "
        "for Expert Choice with round).",
    )
    vmoe.add_argument(
        "--group-size",
        type=running.positive,
        metavar="T",
        help="Number of tokens in a group (default: the tokens of one image).",
    )
    vmoe.add_argument(
        "--batch-priority",
        action="store_true",
        help="Token choice: assign the tokens with the largest gates first.",
    )
    vmoe.add_argument(
        "--positions",
        choices=options.choices(options.VmoeOptions, "positions"),
        help="Kind of position embedding: "
        + ", ".join(options.choices(options.VmoeOptions, "positions"))
        + "; needed where the checkpoint has no learned one.",
    )
    vmoe.add_argument(
        "--pooling",
        choices=options.choices(options.VmoeOptions, "pooling"),
        help="Pooling of the tokens: "
        + ", ".join(options.choices(options.VmoeOptions, "pooling"))
        + "; it must fit the checkpoint.",
    )
    vmoe.add_argument(
        "--text-pooling",
        choices=options.choices(options.VmoeOptions, "text_pooling"),
        help="Two towers: pooling of the tokens of a text: "
        + ", ".join(options.choices(options.VmoeOptions, "text_pooling"))
        + " (default: map if the checkpoint has its weights, else last).",
    )
    _add_record_and_check(
        vmoe,
        "images (and texts) and logits (or logits_f32_dispatch), or with the "
        "checkpoint's arrays by path",
        1e-4,
    )


def _add_mot(commands):
    mot = commands.add_parser(
        "mot",
        help="Convert a language model in the `mot` format of the Hugging Face "
        "Hub.",
        description="Convert a folder or a repository in the `mot` format "
        "(config.json, safetensors, and GPT-2's tokenizer files if they are "
        "there) into a preset for MoTCausalLM.",
    )
    mot.add_argument(
        "source",
        metavar="SOURCE",
        help="A folder, or hf://organisation/name[@revision].",
    )
    mot.add_argument(
        "out", metavar="OUT_PRESET", help="Write the preset to this folder."
    )
    _add_record_and_check(mot, TEXTS, 2e-4)


def _add_llm_random(commands):
    command = commands.add_parser(
        "llm-random",
        help="Convert a language model of llm-random.",
        description="Convert a checkpoint of llm-random (Mixture of Tokens, "
        "Expert Choice or dense) into a preset for MoTCausalLM, or for "
        "MoTBackbone if it is not causal. What its shapes determine is deduced "
        "and printed; an error names the options that give the rest.",
    )
    command.add_argument(
        "source", metavar="FILE.pt", help="File of the checkpoint."
    )
    command.add_argument(
        "out", metavar="OUT_PRESET", help="Write the preset to this folder."
    )
    command.add_argument(
        "--model-type",
        choices=options.choices(options.LlmRandomOptions, "model_type"),
        help="Read a causal model (gpt) or a bidirectional one (bert).",
    )
    command.add_argument(
        "--num-heads",
        type=running.positive,
        metavar="N",
        help="Number of attention heads; not needed for rotary models.",
    )
    command.add_argument(
        "--group-size",
        type=running.positive,
        metavar="T",
        help="Mixture of Tokens: number of tokens in a group.",
    )
    command.add_argument(
        "--sparsity-dim",
        type=int,
        choices=options.choices(options.LlmRandomOptions, "sparsity_dim"),
        help="Mixture of Tokens: group tokens across the batch (0) or along "
        "the sequence (1).",
    )
    command.add_argument(
        "--temperature",
        type=running.positive_real,
        metavar="T",
        help="Mixture of Tokens: temperature of the softmax, if it is fixed.",
    )
    command.add_argument(
        "--learned-temperature",
        choices=options.choices(
            options.LlmRandomOptions, "learned_temperature"
        ),
        help="Mixture of Tokens with learned temperatures: use the parameter t "
        "as t (plain), as exp(t - 1) (positive), or not at all (fixed).",
    )
    command.add_argument(
        "--emit-softmax-over",
        choices=options.choices(options.LlmRandomOptions, "emit_softmax_over"),
        help="Mixture of Tokens: normalise the combine weights over "
        + " or ".join(
            options.choices(options.LlmRandomOptions, "emit_softmax_over")
        )
        + ".",
    )
    command.add_argument(
        "--topk-fraction",
        type=running.positive_real,
        metavar="F",
        help="Expert Choice: share of the tokens that an expert takes.",
    )
    command.add_argument(
        "--softmax-over",
        choices=options.choices(options.LlmRandomOptions, "softmax_over"),
        help="Expert Choice: normalise the gates over "
        + " or ".join(options.choices(options.LlmRandomOptions, "softmax_over"))
        + ".",
    )
    command.add_argument(
        "--group-by-batch",
        choices=options.choices(options.LlmRandomOptions, "group_by_batch"),
        help="Expert Choice: choose among the tokens at one position of the "
        "batch (yes) or among all its tokens (no).",
    )
    _add_record_and_check(command, TEXTS, 2e-4)


def main(arguments=None):
    arguments = vars(parser().parse_args(arguments))
    command = arguments.pop("command")
    source, out = arguments.pop("source"), arguments.pop("out")
    keywords = {
        key: arguments.pop(key) for key in ("verify", "tolerance", "licence")
    }

    def convert_source():
        if command == "vmoe":
            given = options.VmoeOptions(**arguments)
            given.check()  # before anything slow
            convert = running.load("conversion.convert")
            convert.convert_vmoe(source, out, given, **keywords)
        elif command == "mot":
            mot = running.load("conversion.mot")
            mot.convert_mot(source, out, **keywords)
        else:
            given = options.LlmRandomOptions(**arguments)
            given.check()
            llm_random = running.load("conversion.llm_random")
            llm_random.convert_llm_random(source, out, given, **keywords)

    running.run(
        convert_source,
        f"{out} is unchanged or complete; the same command starts again",
    )


if __name__ == "__main__":
    main()
