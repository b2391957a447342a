"""Tokens and padding: what is attended to, positions, ends of texts."""

from keras import ops


def attended(padding_mask):
    """(batch, tokens): tokens, and the places after each sequence's last.

    Padding before a sequence or inside it is `False`. Places after its last
    token are where it may go on, so they count.

    Args:
        padding_mask: (batch, tokens), 1 for tokens and 0 for padding.
    """
    tokens = ops.cast(padding_mask, "int32")
    before = ops.cumsum(tokens, axis=-1) - tokens
    after = before >= ops.sum(tokens, axis=-1, keepdims=True)
    return ops.logical_or(ops.cast(tokens, "bool"), after)


def places_of(padding_mask):
    """(batch, tokens), int32: how many tokens stand before each place.

    Places after a sequence's last token go on from there, so that padding on
    the right changes nothing: 0, 1, 2, ….

    Args:
        padding_mask: (batch, tokens), 1 for tokens and 0 for padding.
    """
    counted = ops.cast(attended(padding_mask), "int32")
    return ops.cumsum(counted, axis=-1) - counted


def up_to_the_first(token_ids, stop_token_ids, prompt):
    """Mark the tokens up to the first stop token after the prompt."""
    stops = ops.zeros_like(token_ids, dtype="bool")
    for stop in stop_token_ids:
        stops = ops.logical_or(stops, token_ids == stop)
    stops = ops.logical_and(stops, ops.logical_not(ops.cast(prompt, "bool")))
    stops = ops.cast(stops, "int32")
    return (ops.cumsum(stops, axis=-1) - stops) == 0
