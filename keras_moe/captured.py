"""Collection of a block of `diagnostics.capture`."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Slots:
    """Inputs and outputs of the experts of one call.

    Args:
        inputs: (G,E,S,D), the slots; rows (P,D) sorted by expert where the
            implementation `"grouped"` ran.
        hidden: (G,E,S,F), the experts' hidden features, without dropout;
            `None` for rows, for experts given as `expert=`, and for experts
            that `spread_experts` has spread over processes.
        outputs: outputs of `inputs`' shape, with the layer's features.
    """

    inputs: Any
    hidden: Any
    outputs: Any


class Plans(dict):
    """Plans by the name of their layer's call; `layers` has the layers so.

    The first layer with a path is called by it, the next ones `path@2`,
    `path@3`, …; a layer's second call adds `#2`, its third `#3`, ….
    """

    def __init__(self, with_slots=False):
        super().__init__()
        self.layers = {}
        self.slots = {} if with_slots else None
        self.closed = False
        self._calls = {}  # of each layer, by its id: name and number of calls
        self._last = {}  # of each layer, by its id: the name of its last call

    def add(self, layer, plan):
        """Keep a plan under a name that no other call has."""
        name, calls = self._calls.get(id(layer), (None, 0))
        if name is None:
            name = self._free(layer.path)
        key, calls = name, calls + 1
        if calls > 1:
            key = self._free(f"{name}#{calls}")
        self._calls[id(layer)] = name, calls
        self[key] = plan
        self._last[id(layer)] = key
        self.layers[key] = layer  # and so ids stay those of these layers

    def add_slots(self, layer, slots):
        """Keep the slots of the layer's last call, under its name."""
        self.slots[self._last[id(layer)]] = slots

    def _free(self, name):
        """The name, or where it is taken the first free of name@2, name@3, …"""
        free, number = name, 1
        while free in self:
            number += 1
            free = f"{name}@{number}"
        return free
