"""GPT-2's tokenizer files, as folders in the `mot` format hold them."""

import pathlib

from keras_moe import files


def read(folder, vocabulary_size) -> tuple[dict, list[str], dict] | None:
    """Vocabulary, merge rules and options of `MoTTokenizer`.

    They come from `vocab.json` and `merges.txt` or, without those, from
    `tokenizer.json`.

    Args:
        folder: with the files.
        vocabulary_size: rows of the embedding, which every id must have one
            of.

    Returns:
        ({token: id}, ["t h", …], {"add_prefix_space": …}), or `None` for a
        folder without any of the files.

    Raises:
        ValueError: for files that are unreadable, incomplete, of another
            kind of tokenizer or of a larger vocabulary.
    """
    folder = pathlib.Path(folder)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    whole = folder / "tokenizer.json"
    options = {"add_prefix_space": False}
    if vocabulary.is_file() and merges.is_file():
        file, ids = vocabulary, files.read_json(vocabulary)
        rules = _lines(merges)
        rules_file = merges
    elif whole.is_file():
        file = whole
        ids, rules, options["add_prefix_space"] = _from_whole(whole)
        rules_file = whole
    elif vocabulary.is_file() or merges.is_file():
        there, absent = "vocab.json", "merges.txt"
        if merges.is_file():
            there, absent = absent, there
        raise ValueError(f"{folder} has {there} and lacks {absent}.")
    else:
        return None
    _check(file, ids, vocabulary_size)
    check_rules(rules_file, rules, file, ids)
    return ids, rules, options


def _lines(file):
    with files.decoding(file, "readable UTF-8 text"):
        lines = file.read_text(encoding="utf-8").split("\n")
    lines = [line.rstrip("\r") for line in lines]
    return [x for x in lines if x.strip() and not x.startswith("#version")]


def _from_whole(file):
    """({token: id}, merge rules, add_prefix_space) of `tokenizer.json`."""
    content = files.read_json(file)
    with files.decoding(file, "tokenizer of GPT-2's kind"):
        model, cutter = content["model"], content["pre_tokenizer"]
        kinds = model["type"], cutter["type"], content.get("normalizer")
        if kinds != ("BPE", "ByteLevel", None):
            raise ValueError(
                "it must have the model BPE, the pre-tokenizer ByteLevel and "
                f"no normalizer; it has {kinds}"
            )
        ids = dict(model["vocab"])
        for token in content.get("added_tokens") or ():
            if ids.setdefault(token["content"], token["id"]) != token["id"]:
                raise ValueError(
                    f"it gives {token['content']!r} two ids, "
                    f"{ids[token['content']]} and {token['id']}"
                )
        rules = [
            rule if isinstance(rule, str) else " ".join(rule)
            for rule in model["merges"]
        ]
        return ids, rules, bool(cutter.get("add_prefix_space"))


def check_ids(file, ids) -> None:
    """Raise an error unless each token has an id of its own.

    Args:
        file: path that the error names.
        ids: {token: id}, or what was read for it.

    Raises:
        UnreadableFile: if it is anything else.
    """
    numbers = list(ids.values()) if isinstance(ids, dict) else []
    if not numbers or any(type(n) is not int or n < 0 for n in numbers):
        raise files.UnreadableFile(f"{file} must map tokens to ids, from 0 on.")
    if len(set(numbers)) != len(numbers):
        raise files.UnreadableFile(f"{file} gives several tokens the same id.")


def check_rules(file, rules, vocabulary, ids) -> None:
    """Raise an error unless merge rules are of a vocabulary, each there once.

    Args:
        file: path that the error names.
        rules: such as `["t h", …]`.
        vocabulary: path of its file.
        ids: {token: id}.

    Raises:
        UnreadableFile: naming the rule.
    """
    seen = set()
    for rule in rules:
        parts = rule.split(" ")
        known = [*parts, "".join(parts)]
        if len(parts) != 2 or not all(token in ids for token in known):
            raise files.UnreadableFile(
                f"merge rule {rule!r} of {file} must join two tokens of "
                f"{vocabulary} into a third one."
            )
        if rule in seen:
            raise files.UnreadableFile(
                f"merge rule {rule!r} of {file} must be there once."
            )
        seen.add(rule)


def _check(file, ids, vocabulary_size):
    check_ids(file, ids)
    last = max(ids.values())
    if last >= vocabulary_size:
        raise ValueError(
            f"{file} has ids up to {last}; the embedding has "
            f"{vocabulary_size} rows."
        )
