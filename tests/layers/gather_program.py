"""Compile index dispatch and combine for groups on 8 virtual devices.

Run by `test_distribution.py`; prints one line of JSON: what is exchanged
between devices by outputs and by gradients.
"""

import json

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from keras_moe import routing
from keras_moe.ops import gather
from tests import exchanges


def there_and_back(tokens, gates):
    plan = routing.token_choice(gates, 2, 5)
    prepared = gather.prepare(plan, tokens.dtype)
    return prepared.combine(prepared.dispatch(tokens))


def main():
    by_group = NamedSharding(
        Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")
    )
    arrays = [
        jax.ShapeDtypeStruct(shape, "float32", sharding=by_group)
        for shape in ((16, 8, 6), (16, 8, 4))
    ]

    def gradients(tokens, gates):
        def loss(tokens, gates):
            return (there_and_back(tokens, gates) ** 2).sum()

        return jax.grad(loss, (0, 1))(tokens, gates)

    facts = {"devices": len(jax.devices())}
    for function in (there_and_back, gradients):
        compiled = jax.jit(function, out_shardings=by_group).lower(*arrays)
        found = exchanges.found(compiled.compile().as_text())
        facts[function.__name__] = [kind for kind, _ in found]
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
