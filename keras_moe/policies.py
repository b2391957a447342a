"""Dtype policies of the layers within a layer, named from that layer on.

Keras names the layers of a `DTypePolicyMap` by their absolute paths. A layer
that saves the policies of its own layers cannot know the path that it will have
when it is loaded: that of a layer depends on where it stands. So its map names
them by their paths below the layer, such as `"experts/up"`.
"""

from keras import dtype_policies
from keras.dtype_policies import DTypePolicyMap


def of(layer):
    """The dtype policy to save: a map where layers below differ from it."""
    policy = layer.dtype_policy
    mapped = isinstance(policy, DTypePolicyMap)
    default = policy.default_policy if mapped else policy
    different = {}
    for one in layer._flatten_layers(include_self=False):
        own = one.dtype_policy
        if isinstance(own, DTypePolicyMap):  # a layer without weights may
            own = own[one.path] if one.path else default  # not be built
        if own.quantization_mode or (
            one.path and mapped and own.name != default.name
        ):
            different[one.path.removeprefix(f"{layer.path}/")] = own
    return DTypePolicyMap(default, different) if different else default


def below(policy, *places):
    """The policy for a layer that is being made within one of this policy.

    Args:
        policy: of the outer layer; a map says more of some layers.
        places: paths that the map may have for the layer, its absolute one and
            the one from the outer layer on. A map that has none of them, nor
            any below them, is handed on as it is, for its patterns.
    """
    if not isinstance(policy, DTypePolicyMap):
        return policy
    for place in places:
        if place in policy:
            return policy[place]
        parts = {
            path.removeprefix(f"{place}/"): policy[path]
            for path in policy
            if path.startswith(f"{place}/")
        }
        if parts:
            return DTypePolicyMap(policy.default_policy, parts)
    return policy


def within(layer, name):
    """The policy for the layer `name`, which is being made within `layer`.

    Keras' layers of a policy of their own are saved again as they were loaded;
    those of a map are not.
    """
    return below(layer.dtype_policy, f"{layer.path}/{name}")


def of_head(task, policy, default):
    """The policy of a task's head to save, as a configuration.

    Args:
        task: with a `backbone`, whose layers are not the head's.
        policy: what the head was made with; `None` for the backbone's.
        default: the policy of a layer of the head that is never quantised.

    Returns:
        `None` where nothing was asked for and no layer is quantised.
    """
    if policy is not None:
        policy = dtype_policies.get(policy)
    backbone = {id(layer) for layer in task.backbone._flatten_layers()}
    quantised = {
        layer.path: layer.dtype_policy
        for layer in task._flatten_layers(include_self=False)
        if id(layer) not in backbone and layer.quantization_mode is not None
    }
    if quantised and not isinstance(policy, DTypePolicyMap):
        if isinstance(default, DTypePolicyMap):
            default = default.default_policy
        policy = DTypePolicyMap(default, quantised)
    return None if policy is None else dtype_policies.serialize(policy)
