"""python -m keras_moe: try the presets that ship with the package."""

import argparse

from keras_moe import commands as running
from keras_moe import plan_command

GENERATE = "mot_tiny_shakespeare"
SAMPLERS = ("top_k", "top_p", "random", "greedy")


def parser():
    root = argparse.ArgumentParser(
        prog="python -m keras_moe", description=__doc__
    )
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("presets", help="List all presets and where they are.")
    plan = commands.add_parser(
        "plan", help="Plan the memory of a paper's model."
    )
    plan_command.add_arguments(plan)
    generate = commands.add_parser(
        "generate", help="Continue a text with a language model."
    )
    generate.add_argument("prompt", metavar="PROMPT", help="Text to continue.")
    generate.add_argument(
        "--preset",
        default=GENERATE,
        metavar="PRESET",
        help="Name, folder or hf:// handle of the language model (default: "
        "%(default)s).",
    )
    generate.add_argument(
        "--max-length",
        type=running.positive,
        metavar="N",
        help="Stop at this many tokens, with those of PROMPT (default: the "
        "number of positions of the model).",
    )
    generate.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="top_k",
        help="Choose the next token from the 20 most probable ones (top_k), "
        "from the most probable ones with a total of 0.9 (top_p), from all "
        "(random), or take the most probable one (greedy); default: "
        "%(default)s.",
    )
    generate.add_argument(
        "--temperature",
        type=running.positive_real,
        default=0.8,
        metavar="T",
        help="Divide the logits by this number before sampling; greedy ignores "
        "it (default: %(default)s).",
    )
    generate.add_argument(
        "--seed",
        type=running.seed,
        default=0,
        metavar="N",
        help="Random seed of the sampler (default: %(default)s).",
    )
    return root


def sampler(name, temperature, seed):
    """A KerasHub sampler by name."""
    import keras_hub

    if name == "greedy":
        return keras_hub.samplers.GreedySampler()
    options = {"temperature": temperature, "seed": seed}
    if name == "top_k":
        return keras_hub.samplers.TopKSampler(k=20, **options)
    if name == "top_p":
        return keras_hub.samplers.TopPSampler(p=0.9, **options)
    return keras_hub.samplers.RandomSampler(**options)


def main(arguments=None):
    arguments = parser().parse_args(arguments)
    running.run(
        lambda: print(COMMANDS[arguments.command](arguments)),
        needs="keras_moe.models",
    )


def presets(arguments):
    """The table of presets."""
    from keras_moe.models.presets import catalogue

    return catalogue.table()


def generate(arguments):
    """The text and how it goes on."""
    from keras_moe import models

    chosen = sampler(arguments.sampler, arguments.temperature, arguments.seed)
    model = models.MoTCausalLM.from_preset(arguments.preset)
    model.compile(sampler=chosen)
    return model.generate(arguments.prompt, max_length=arguments.max_length)


COMMANDS = {
    "presets": presets,
    "plan": plan_command.report,
    "generate": generate,
}


if __name__ == "__main__":
    main()
