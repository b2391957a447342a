"""Recomputation on PyTorch."""

import contextlib
import inspect

from torch.utils import checkpoint as torch_checkpoint

# Stopping early is an exception through the second run, which Keras' layers
# would replace by one of theirs. PyTorch before 2.9 has a switch of all threads
# alone.
_HAS_ARGUMENT = (
    "early_stop" in inspect.signature(torch_checkpoint.checkpoint).parameters
)


def checkpoint(function, values, tensors):
    """Call a function whose gradient keeps its arguments alone.

    Args:
        function: `(values, tensors) -> (outputs, losses, moved)`; `moved` has
            new values by their index in `values`.
        values: of variables.
        tensors: further arguments.
    """
    values = list(values)
    if _HAS_ARGUMENT:
        switch, options = contextlib.nullcontext(), {"early_stop": False}
    else:
        switch, options = torch_checkpoint.set_checkpoint_early_stop(False), {}
    with switch:
        outputs, losses, moved = torch_checkpoint.checkpoint(
            lambda *tensors: function(values, tensors),
            *tensors,
            use_reentrant=False,
            **options,
        )
    # Variables are assigned in place; the second run needs the old values.
    for index in moved:
        values[index] = values[index].detach().clone()
    return outputs, losses, moved
