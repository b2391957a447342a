"""Blocks of a language model on one text token after another."""

from keras import ops

from keras_moe import passing
from keras_moe.models.language.padding import places_of


class CachedBackbone:
    """A backbone that keeps the keys and values of earlier tokens.

    It is a `MoTBackbone`, which has the layers and the arguments.
    """

    def empty_cache(self, batch, length):
        """Zeros (batch, layers, 2, length, heads, head_dim).

        With `depth_layers` a pair of this and of zeros (batch, number of
        `depth_layers`, length), int32: 1 for the tokens that pass a block.
        """
        self.check_length(length)
        head = self.head_dim or self.hidden_dim // self.num_heads
        shape = (batch, self.num_layers, 2, length, self.num_heads, head)
        cache = ops.zeros(shape, dtype=self.compute_dtype)
        if not self.depths:
            return cache
        passed = (batch, len(self.depths), length)
        return cache, ops.zeros(passed, dtype="int32")

    def call_with_cache(self, token_ids, cache, index, padding_mask=None):
        """Features of ids at place `index`, and the cache with them.

        Args:
            token_ids: (batch, tokens) integers.
            cache: as `empty_cache` makes it.
            index: the place of the first id.
            padding_mask: `None`, or (batch, length) of the whole cache, which
                places may be attended to. The position of a token is the
                number of tokens before it.
        """
        batch, count = ops.shape(token_ids)
        if padding_mask is None:
            places = index + ops.arange(0, count, dtype="int32")
        else:
            places = ops.slice(
                places_of(padding_mask), [0, index], [batch, count]
            )
        tokens = self.embed(token_ids, places)
        rows = []  # of each of depth_layers, the tokens that pass
        if self.depths:
            cache, passed = cache
            rows = [passed[:, row] for row in range(len(self.depths))]
        caches = []
        for number, block in enumerate(self.blocks):
            options = {
                "padding_mask": padding_mask,
                "cache": cache[:, number],
                "index": index,
                "places": places,
            }
            if number in self.depth_layers:
                row = self.depth_layers.index(number)
                tokens, updated_cache, rows[row] = _pass_with_cache(
                    self.depths[row], tokens, rows[row], options
                )
            else:
                tokens, updated_cache = block(tokens, **options)
            caches.append(updated_cache)
        if self.norm_layer is not None:
            tokens = self.norm_layer(tokens)
        cache = ops.stack(caches, axis=1)
        return tokens, (cache, ops.stack(rows, axis=1)) if rows else cache


def _pass_with_cache(depths, tokens, passed, options):
    """Outputs, cache and passed tokens of a block that some tokens pass.

    All tokens are computed, and those that pass are the keys.

    Args:
        depths: the `MixtureOfDepths`, by its predictor or threshold.
        tokens: (B,Q,D).
        passed: int32 (B,T), 1 for the places of the cache that passed.
        options: arguments of the block.
    """
    index, mask = options["index"], options["padding_mask"]
    batch, count = ops.shape(tokens)[0], ops.shape(tokens)[1]
    here = None
    if mask is not None:
        mask = ops.cast(mask, "int32")
        here = ops.slice(mask, [0, index], [batch, count]) > 0
    scores, choice = depths.choose(tokens, here)
    if depths.inference_capacity < 1:  # the first ones pass
        limit = passing.number_of(passed, depths.inference_capacity)
        earlier = ops.arange(0, ops.shape(passed)[1], dtype="int32") < index
        before = ops.sum(passed * ops.cast(earlier, "int32"), -1, keepdims=True)
        counted = ops.cumsum(ops.cast(choice, "int32"), axis=-1)
        choice = ops.logical_and(choice, before + counted <= limit)
    passed = ops.slice_update(passed, [0, index], ops.cast(choice, "int32"))
    outputs, cache = depths.layer(tokens, **options | {"padding_mask": passed})
    update = depths.update(tokens, outputs, scores, choice)
    return tokens + update, cache, passed
