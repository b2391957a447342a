"""python -m conversion: turn reference checkpoints into presets."""

import argparse
import re

from conversion import options
from keras_moe import commands

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
        help="of the checkpoint, for conversion.json",
    )
    command.add_argument(
        "--verify",
        metavar="EXPECTED.npz",
        help=f"compare the preset with {expected}, and write nothing if they "
        "differ",
    )
    command.add_argument(
        "--tolerance",
        type=float,
        default=tolerance,
        help="largest difference of logits that --verify lets pass "
        f"({tolerance:.0e})",
    )


def _add_vmoe(commands):
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
        type=int,
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
        type=int,
        metavar="K",
        help="token choice: experts that each token asks for; without it, "
        "a router that chooses is taken for Expert Choice, as the weights do "
        "not tell",
    )
    vmoe.add_argument(
        "--capacity-factor",
        type=float,
        metavar="C",
        help="token choice and Expert Choice: seats in proportion to tokens",
    )
    vmoe.add_argument(
        "--capacity-rounding",
        choices=options.choices(options.VmoeOptions, "capacity_rounding"),
        help="how seats are rounded (Expert Choice: round, token choice: ceil)",
    )
    vmoe.add_argument(
        "--capacity-multiple-of",
        type=int,
        metavar="M",
        help="seats are raised to a multiple of M (4, vmoe's default; 1 for "
        "Expert Choice that rounds)",
    )
    vmoe.add_argument(
        "--group-size",
        type=int,
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
        choices=options.choices(options.VmoeOptions, "positions"),
        help="needed where the checkpoint has no learned ones",
    )
    vmoe.add_argument(
        "--pooling",
        choices=options.choices(options.VmoeOptions, "pooling"),
        help="checked against the checkpoint, which tells it",
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
        "MoTBackbone if it is not causal. What shapes tell is deduced and "
        "printed; what they do not tell is asked for by the options' names.",
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
        type=int,
        metavar="N",
        help="heads of attention; rotary models tell it",
    )
    command.add_argument(
        "--group-size",
        type=int,
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
        type=float,
        metavar="T",
        help="Mixture of Tokens: of the softmax, where it is fixed",
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
        type=float,
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
            from conversion import convert

            convert.convert_vmoe(source, out, given, **keywords)
        elif command == "mot":
            from conversion import mot

            mot.convert_mot(source, out, **keywords)
        else:
            given = options.LlmRandomOptions(**arguments)
            given.check()
            from conversion import llm_random

            llm_random.convert_llm_random(source, out, given, **keywords)

    commands.run(convert_source)


if __name__ == "__main__":
    main()
