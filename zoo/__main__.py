"""python -m zoo: train, measure and pack presets."""

import argparse

from keras_moe import commands as running
from zoo import recipe as recipes
from zoo.commands import arguments as shared
from zoo.commands import data
from zoo.commands import hub
from zoo.commands import transition


def parser():
    root = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="List the presets and where they are.")
    train = commands.add_parser(
        "train", help="Train a preset, or resume an interrupted run."
    )
    train.add_argument(
        "--epochs",
        type=running.positive,
        help="Train for this many epochs instead of the recipe's.",
    )
    evaluate = commands.add_parser(
        "evaluate", help="Measure a trained preset on test data."
    )
    which = evaluate.add_mutually_exclusive_group()
    which.add_argument(
        "--preset",
        metavar="NAME_OR_FOLDER",
        help="Measure this preset instead of the one of the run.",
    )
    which.add_argument(
        "--further",
        action="store_true",
        help="Measure the preset of the run that `further` trained.",
    )
    pack = commands.add_parser(
        "pack",
        help="Put the preset of a run into the package, in half precision.",
    )
    other = pack.add_mutually_exclusive_group()
    other.add_argument(
        "--tuned",
        choices=("self", "argmax"),
        help="Pack the preset that was tuned for this mode: self or argmax.",
    )
    other.add_argument(
        "--further",
        action="store_true",
        help="Pack the preset that `further` trained.",
    )
    pack.add_argument(
        "--inference-mixing",
        choices=("group", "self", "argmax"),
        help="Set inference_mixing of a Mixture of Tokens: group, self or "
        "argmax (default: that of the preset).",
    )
    record = commands.add_parser(
        "record", help="Write the measurements of the runs to zoo/results."
    )
    record.add_argument(
        "--further",
        action="store_true",
        help="Write those of the presets that `further` trained, beside them.",
    )
    step_time = commands.add_parser(
        "step-time",
        help="Measure the step time of a recipe and of its dense twin.",
    )
    compare = commands.add_parser(
        "compare",
        help="Compare the runs of a recipe with those of its dense twin.",
    )
    variants = commands.add_parser(
        "variants",
        help="Train variants of a recipe and record their results.",
    )
    selections = commands.add_parser(
        "selections",
        help="Train small causal models by Expert Choice, with and without "
        "thresholds, and record their results.",
    )
    small = (variants, selections)
    named = (train, evaluate, pack, record, step_time, compare, *small)
    for command in named:
        shared.add_name(command)
    for command in (train, evaluate, pack, record, compare, *small):
        shared.add_runs(command)
    for command in (train, evaluate, pack):
        shared.add_seed(command)
    for command in (train, evaluate, pack, *small):
        shared.add_data(command)
    data.add(commands)
    transition.add(commands)
    hub.add(commands)
    return root


# What Ctrl-C leaves behind, or how to go on after it.
ON = "the same command resumes from the last saved epoch"
RESUME = {
    "train": ON,
    "further": ON,
    "variants": ON,
    "selections": ON,
    "data": "the same command starts again with the packages fetched so far",
    "publish": "the repository has the whole commit or none of it; the same "
    "command resumes",
}


def main(arguments=None):
    arguments = parser().parse_args(arguments)
    running.run(
        lambda: COMMANDS[arguments.command](arguments),
        RESUME.get(arguments.command, "the same command starts again"),
        needs="keras_moe.models",
    )


def _folders(arguments):
    """Recipe, folder of its runs."""
    recipe = recipes.load(arguments.name)
    return recipe, arguments.runs / recipe.name


def _train(arguments):
    from zoo.training import train

    recipe, folder = recipes.load(arguments.name), shared.run_of(arguments)
    train.train(
        recipe, folder, arguments.seed, arguments.data, arguments.epochs
    )
    print(f"Preset: {folder / 'preset'}")


def _evaluate(arguments):
    import statistics

    from zoo.measure import evaluate
    from zoo.tasks import task_of
    from zoo.training import runs as places

    recipe, runs = _folders(arguments)
    run = shared.run_of(arguments)
    part = places.FURTHER if arguments.further else "."
    task = task_of(recipe)
    given = arguments.preset
    result = evaluate.evaluate(
        recipe,
        given or places.preset_of(recipe, run, f"{part}/{places.PRESET}"),
        arguments.data,
        None if given else run / part / "evaluation.json",
    )
    print(
        f"{task.metric_title} {result[task.metric]:.4f} on test data, "
        f"{result['parameters']:,} parameters"
    )
    for domain, figure in result.get("domains", {}).items():
        print(f"  {domain} {figure:.4f}")
    seeds = evaluate.summary(runs, task.metric, part)
    if not given and len(seeds) > 1:
        values = list(seeds.values())
        print(
            f"{len(seeds)} seeds: mean {statistics.mean(values):.4f}, "
            f"standard deviation {statistics.stdev(values):.4f}"
        )


def _pack(arguments):
    from zoo.measure import results
    from zoo.publish import pack
    from zoo.publish import table
    from zoo.training import runs as places

    recipe, runs = _folders(arguments)
    preset = places.PRESET
    if arguments.tuned:
        preset = f"tuned-{arguments.tuned}"
    elif arguments.further:
        preset = f"{places.FURTHER}/{places.PRESET}"
    packed = pack.pack(
        recipe,
        shared.run_of(arguments),
        arguments.data,
        preset=preset,
        mixing=arguments.inference_mixing,
    )
    results.record_preset(recipe, runs, packed)
    table.write()
    print(f"{recipe.name}: {packed['bytes'] / 1e6:.1f} MB in the package")


def _record(arguments):
    from zoo.measure import results
    from zoo.publish import table

    recipe, runs = _folders(arguments)
    if arguments.further:
        result = results.record_further(recipe, runs)["further"]
    else:
        result = results.record(recipe, runs)
    table.write()
    print(f"{results.path_of(recipe.name)}: {len(result['seeds'])} seeds")


def _step_time(arguments):
    from keras_moe.models.presets.manifest import write_json
    from zoo.measure import results
    from zoo.measure import step_time

    recipe = recipes.load(arguments.name)
    if recipe.twin is None:
        raise recipes.RecipeError(f"{recipe.name} has no twin.")
    found = step_time.compare(recipe)
    name = f"step_time_{recipe.name}_{found['backend']}"
    write_json(results.path_of(name), found)
    low, high = found["ratio_quartiles"]
    print(
        f"{found['ratio']:.2f} of its twin's step time (quartiles {low:.2f} "
        f"to {high:.2f})"
    )


def _compare(arguments):
    from zoo.measure import compare
    from zoo.publish import table

    recipe = recipes.load(arguments.name)
    found = compare.write(recipe, arguments.runs)
    table.write()
    for kind in ("equal_steps", "equal_time"):
        row = found[kind]
        print(
            f"{kind.replace('_', ' ')}, {row['of']}: {found['metric']} "
            f"{row['mean']:.4f}, twin {row['twin_mean']:.4f}, margin "
            f"{row['margin']:+.4f}"
        )


def _selections(arguments):
    from zoo.training import selections

    recipe = recipes.load(arguments.name)
    if recipe.task != "text":
        raise recipes.RecipeError(
            f"NAME must be a language model; {recipe.name} is none."
        )
    found = selections.run(recipe, arguments.runs, arguments.data)
    for selection, one in found.items():
        print(
            f"{selection:<22} {one['validation'][-1]:.3f} bits per byte, "
            f"{one['differ']:.1%} of the choices are not those of top-k"
        )


def _variants(arguments):
    from zoo.publish import table
    from zoo.training import pair_variants
    from zoo.training import variants

    recipe = recipes.load(arguments.name)
    of_pairs = recipe.name in pair_variants.NUMBERS
    kind = pair_variants if of_pairs else variants
    found = kind.run(recipe, arguments.runs, arguments.data)
    table.write()
    for name, one in found.items():
        print(f"{name}: {one['validation'][-1]:.4f} on validation data")


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "pack": _pack,
    "record": _record,
    "step-time": _step_time,
    "compare": _compare,
    "variants": _variants,
    "selections": _selections,
    **data.COMMANDS,
    **transition.COMMANDS,
    **hub.COMMANDS,
}


if __name__ == "__main__":
    main()
