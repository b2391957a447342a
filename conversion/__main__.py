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
        help="licence of the checkpoint, for conversion.json (not stated)",
    )
    command.add_argument(
        "--verify",
        metavar="EXPECTED.npz",
        help=f"compare the preset with {expected}, and write nothing if they "
        "differ",
    )
    command.add_argument(
        "--tolerance",
        type=running.tolerance,
        default=tolerance,
        help="largest difference of logits that --verify accepts "
        f"({tolerance:.0e})",
    )


def _add_vmoe(commands):
    vmoe = commands.add_parser(
        "vmoe",
        help="vision transformers of google-research/vmoe",
        description="Convert a checkpoint of vmoe's VisionTransformerMoe "
        "(Soft MoE, Expert Choice, V-MoE or dense) into a preset for "
        "MoEViTImageClassifier. What its shapes determine is deduced and "
        "printed; an error names the options that give the rest.",
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
        help="a configuration of the papers, for what shapes do not "
        "determine: " + ", ".join(architectures.names()),
    )
    vmoe.add_argument(
        "--num-heads",
        type=running.positive,
        metavar="N",
        help="heads of attention, checked against the checkpoint",
    )
    vmoe.add_argument(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="pixels of the images; learned positions of another grid are "
        "resized (the size that square learned positions determine)",
    )
    vmoe.add_argument(
        "--top-k",
        type=running.positive,
        metavar="K",
        help="token choice: experts of each token; without it, a sparse router "
        "is taken for Expert Choice, as the weights of both are alike",
    )
    vmoe.add_argument(
        "--capacity-factor",
        type=running.positive_real,
        metavar="C",
        help="token choice and Expert Choice: capacity in proportion to tokens",
    )
    vmoe.add_argument(
        "--capacity-rounding",
        choices=options.choices(options.VmoeOptions, "capacity_rounding"),
        help="how the capacity is rounded (Expert Choice: round, token choice: "
        "ceil)",
    )
    vmoe.add_argument(
        "--capacity-multiple-of",
        type=running.positive,
        metavar="M",
        help="the capacity is raised to a multiple of M (4, vmoe's default; 1 "
        "for Expert Choice that rounds)",
    )
    vmoe.add_argument(
        "--group-size",
        type=running.positive,
        metavar="T",
        help="tokens that are routed together (those of one image)",
    )
    vmoe.add_argument(
        "--batch-priority",
        action="store_true",
        help="token choice: assign the tokens with the largest gates first",
    )
    vmoe.add_argument(
        "--positions",
        choices=options.choices(options.VmoeOptions, "positions"),
        help="kind of positions, needed where the checkpoint has no learned "
        "ones",
    )
    vmoe.add_argument(
        "--pooling",
        choices=options.choices(options.VmoeOptions, "pooling"),
        help="how the tokens become one vector, checked against the checkpoint",
    )
    _add_record_and_check(
        vmoe,
        "images and logits (or logits_f32_dispatch), or with the checkpoint's "
        "arrays by path",
        1e-4,
    )


def _add_mot(commands):
    mot = commands.add_parser(
        "mot",
        help="language models in the `mot` format of the Hugging Face Hub",
        description="Convert a folder or a repository in the `mot` format "
        "(config.json, safetensors, and GPT-2's tokenizer files if they are "
        "there) into a preset for MoTCausalLM.",
    )
    mot.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder, or hf://organisation/name[@revision]",
    )
    mot.add_argument("out", metavar="OUT_PRESET", help="folder to write")
    _add_record_and_check(mot, TEXTS, 2e-4)


def _add_llm_random(commands):
    command = commands.add_parser(
        "llm-random",
        help="language models of llm-random",
        description="Convert a checkpoint of llm-random (Mixture of Tokens, "
        "Expert Choice or dense) into a preset for MoTCausalLM, or for "
        "MoTBackbone if it is not causal. What its shapes determine is deduced "
        "and printed; an error names the options that give the rest.",
    )
    command.add_argument("source", metavar="FILE.pt", help="the checkpoint")
    command.add_argument("out", metavar="OUT_PRESET", help="folder to write")
    command.add_argument(
        "--model-type",
        choices=options.choices(options.LlmRandomOptions, "model_type"),
        help="whether attention is causal (gpt) or not (bert)",
    )
    command.add_argument(
        "--num-heads",
        type=running.positive,
        metavar="N",
        help="heads of attention; not needed for rotary models",
    )
    command.add_argument(
        "--group-size",
        type=running.positive,
        metavar="T",
        help="Mixture of Tokens: tokens mixed together",
    )
    command.add_argument(
        "--sparsity-dim",
        type=int,
        choices=options.choices(options.LlmRandomOptions, "sparsity_dim"),
        help="Mixture of Tokens: 0 mixes across the batch, 1 along the "
        "sequence",
    )
    command.add_argument(
        "--temperature",
        type=running.positive_real,
        metavar="T",
        help="Mixture of Tokens: temperature of the softmax, where it is fixed",
    )
    command.add_argument(
        "--learned-temperature",
        choices=options.choices(
            options.LlmRandomOptions, "learned_temperature"
        ),
        help="Mixture of Tokens with learned temperatures: how the class "
        "uses its parameter t, as t (plain), as exp(t - 1) (positive), or "
        "not at all (fixed)",
    )
    command.add_argument(
        "--emit-softmax-over",
        choices=options.choices(options.LlmRandomOptions, "emit_softmax_over"),
        help="Mixture of Tokens: what the weights of what comes back sum to "
        "one over",
    )
    command.add_argument(
        "--topk-fraction",
        type=running.positive_real,
        metavar="F",
        help="Expert Choice: share of the tokens that an expert takes",
    )
    command.add_argument(
        "--softmax-over",
        choices=options.choices(options.LlmRandomOptions, "softmax_over"),
        help="Expert Choice: what the gates sum to one over",
    )
    command.add_argument(
        "--group-by-batch",
        choices=options.choices(options.LlmRandomOptions, "group_by_batch"),
        help="Expert Choice: whether the tokens at one position of the batch "
        "compete (yes), or all of its tokens (no)",
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
        f"{out} is as it was, or whole; the same command starts again",
    )


if __name__ == "__main__":
    main()
