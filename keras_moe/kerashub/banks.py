"""Banks whose kernels are replaced, and the files that they read.

A file of KerasHub goes on fitting: its kernels are assigned to what replaced
them. A bank's own files hold its own variables, more than KerasHub's bank has,
so that KerasHub refuses them.
"""

import types

from keras_moe.kerashub.kernels import ReplacedKernel


def kernels_of(family, layer):
    """The bank of a layer, and {attribute: kernel} of it."""
    bank = family.bank_of(layer)
    return bank, {name: getattr(bank, name) for name in family.kernels}


def is_replaced(family, layer) -> bool:
    """Whether a kernel of the bank is not KerasHub's own."""
    _, kernels = kernels_of(family, layer)
    return any(isinstance(k, ReplacedKernel) for k in kernels.values())


def replace(family, layer, make):
    """Replace each kernel of a bank: `make(bank, kernel)` gives the new one."""
    bank = family.bank_of(layer)
    if "load_own_variables" not in vars(bank):
        _read_kerashubs_files(*kernels_of(family, layer))
    for name in family.kernels:
        # No other reference than the bank's, so that memory is freed.
        vars(bank)[name] = make(bank, getattr(bank, name))


def hold_present_weights(model):
    """Have PyTorch's modules forget variables that were replaced.

    On PyTorch each layer of Keras holds those of the layers in it, too.
    """
    for layer in model._flatten_layers():
        if hasattr(layer, "_torch_params"):
            layer._track_variables()


def restore(family, layer):
    """Forget what `replace` made of files, if all kernels are variables."""
    bank, _ = kernels_of(family, layer)
    if not is_replaced(family, layer):
        del vars(bank)["load_own_variables"]


def _read_kerashubs_files(bank, kernels):
    attributes = {id(kernel): name for name, kernel in kernels.items()}
    # By attribute where a kernel is replaced, else the variable.
    order = [
        attributes.get(id(variable), variable) for variable in _tracked(bank)
    ]

    def load_own_variables(self, store):
        if len(store.keys()) == len(order):
            targets = [
                getattr(self, one) if isinstance(one, str) else one
                for one in order
            ]
        else:
            targets = _tracked(self)
        _check(self, store, targets)
        for index, target in enumerate(targets):
            target.assign(store[str(index)])

    vars(bank)["load_own_variables"] = types.MethodType(
        load_own_variables, bank
    )


def _tracked(bank):
    """In the order in which Keras writes them."""
    return bank._trainable_variables + bank._non_trainable_variables


def _check(bank, store, targets):
    expected = [tuple(target.shape) for target in targets]
    found = [
        tuple(store[str(index)].shape) for index in range(len(store.keys()))
    ]
    if found != expected:
        raise ValueError(
            f"the file must hold the experts of {bank.path!r} as KerasHub "
            "saves them, or as a model with the same quantisation and adapters "
            f"does, in arrays of the shapes {expected}; it has {found}."
        )
