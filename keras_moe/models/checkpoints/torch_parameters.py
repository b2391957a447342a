"""Lists a model's weights as PyTorch's parameters."""

import keras


class TorchParameters:
    """A model of KerasHub whose weights PyTorch finds, on that backend.

    KerasHub sets attributes past PyTorch until its `__init__` ends, which is
    after Keras has listed the weights. Then `parameters()` is empty, an
    optimiser of PyTorch trains nothing, and its tracer finds no weights.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        list_parameters(self)

    def named_parameters(self, *args, **kwargs):
        """As `torch.nn.Module`, on PyTorch only; all variables of the model.

        Those of `enable_lora` too, which Keras lists on their layer alone.
        """
        paths = {variable.path for variable in self.variables}
        if paths != set(self.torch_params):
            list_parameters(self)
        return super().named_parameters(*args, **kwargs)


def list_parameters(model) -> None:
    """Have PyTorch list a model's weights, where it is the backend."""
    if keras.backend.backend() != "torch":
        return
    # A model of which shapes alone are asked for has made no weight, and
    # listing would make them all.
    if all(variable._value is not None for variable in model.variables):
        model._track_variables()
