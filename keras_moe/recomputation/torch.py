"""Recomputation on PyTorch."""

from torch.utils import checkpoint as torch_checkpoint


def checkpoint(function, values, tensors):
    """Call a function whose gradient keeps its arguments alone.

    Args:
        function: `(values, tensors) -> (outputs, losses, moved)`; `moved` has
            new values by their index in `values`.
        values: of variables.
        tensors: further arguments.
    """
    values = list(values)
    # Stopping early is an exception through the second run, which Keras'
    # layers would replace by one of theirs.
    with torch_checkpoint.set_checkpoint_early_stop(False):
        outputs, losses, moved = torch_checkpoint.checkpoint(
            lambda *tensors: function(values, tensors),
            *tensors,
            use_reentrant=False,
        )
    # Variables are assigned in place; the second run needs the old values.
    for index in moved:
        values[index] = values[index].detach().clone()
    return outputs, losses, moved
