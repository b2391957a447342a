"""Experts that are layers of any kind, called one after another."""

import keras
import numpy as np
from keras import ops


class ClonedExperts(keras.layers.Layer):
    """Every expert is a clone of one layer, called one after another.

    Any layer that maps (G,S,D) to (G,S,D) will do; with an `output_dim` to
    (G,S,output_dim), and with a `slot_shape` (h,w), h·w = S, the slots of an
    expert come and go as a grid, (G,h,w,D). A Python loop, so slower than
    `FeedForwardExperts`, the more so the more experts there are. The clones
    compute in the template's dtype.
    """

    exchange = None  # between processes there is none

    def __init__(
        self, num_experts, template, output_dim=None, slot_shape=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.output_dim = output_dim
        self.slot_shape = slot_shape
        config = template.get_config()
        self.clones = []
        for e in range(num_experts):
            own = _seeded(config, e)
            own["name"] = f"{template.name}_{e}"
            self.clones.append(template.__class__.from_config(own))

    def build(self, slots_shape):
        grid = self.slot_shape or (slots_shape[2],)
        one = (slots_shape[0], *grid, slots_shape[3])
        for clone in self.clones:  # also one without `build`, by its call
            outputs = clone(keras.KerasTensor(one, dtype=self.compute_dtype))
        features = self.output_dim or one[-1]
        output = tuple(outputs.shape)
        # The batch and, without a grid, the number of slots may be unknown.
        if (
            len(output) != len(one)
            or output[-1] != features
            or (self.slot_shape and output[1:-1] != one[1:-1])
        ):
            fits = "the shape that it is given"
            if self.output_dim is not None:
                fits = f"{(*one[:-1], features)}, as output_dim says"
            raise ValueError(
                f"expert must return {fits}; received an expert that makes "
                f"{output} of {one}."
            )
        self.built = True

    def call(self, slots, training=None, steps=None):
        outputs = [
            self._one(clone, slots[:, e], training)
            for e, clone in enumerate(self.clones)
        ]
        return ops.cast(ops.stack(outputs, axis=1), self.compute_dtype)

    def _one(self, clone, slots, training):
        """Output of one expert for its slots, (G,S,D)."""
        _, number, features = ops.shape(slots)
        if self.slot_shape:
            slots = ops.reshape(slots, (-1, *self.slot_shape, features))
        # A layer without `training` in its call is not given it.
        training = (
            {"training": training} if clone._call_has_training_arg else {}
        )
        outputs = clone(slots, **training)
        if self.slot_shape:
            outputs = ops.reshape(outputs, (-1, number, outputs.shape[-1]))
        return outputs

    def hidden(self, slots):
        """`None`: layers of any kind may have no hidden features."""

    def traits(self) -> set:
        """Names in `ops.selection.TRAITS`, those that hold."""
        return {"cloned_experts"}

    def compute_output_shape(self, slots_shape):
        return (*slots_shape[:-1], self.output_dim or slots_shape[-1])

    def enable_lora(self, rank, **options):
        layers = [
            layer
            for clone in self.clones
            for layer in clone._flatten_layers()
            if hasattr(layer, "enable_lora")
        ]
        if not layers:
            raise ValueError(
                "expert must hold layers that take adapters, such as Dense; "
                f"received {self.clones[0]!r}."
            )
        for layer in layers:
            layer.enable_lora(rank, **options)


def _seeded(config, expert):
    """A copy of a config in which each seed is another, for each expert."""
    if isinstance(config, dict):
        return {
            name: _seed(value, expert)
            if name == "seed" and isinstance(value, int)
            else _seeded(value, expert)
            for name, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_seeded(value, expert) for value in config)
    return config


def _seed(seed, expert):
    """`seed` of the first expert; of others, far from other layers' seeds."""
    if expert == 0:
        return seed
    drawn = np.random.SeedSequence([abs(seed), expert]).generate_state(1)[0]
    return int(drawn) % 2**31
