"""Contrastive losses and embeddings, spread over 8 virtual devices of a CPU.

Run by `test_loss_devices.py` in a process of its own; prints one line of JSON:
losses, gradients and embeddings on one device and on all, and what devices
exchange.
"""

import json

import jax
import keras
import numpy as np

from keras_moe.contrastive import KINDS
from keras_moe.losses import contrastive_loss
from tests import exchanges
from tests.models.two_tower.support import PIXELS
from tests.models.two_tower.support import make_model

PAIRS, FEATURES = 32, 4
CHUNKS = {"whole": None, "chunks": 16, "uneven": 5}


def main():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, PAIRS, FEATURES)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    captions = np.arange(PAIRS) % 29
    numbers = (np.float32(4.0), np.float32(-2.0))
    spread = keras.distribution.DataParallel()
    shared = [
        jax.device_put(x, spread.get_data_layout(x.shape).backend_layout)
        for x in (*embeddings, captions)
    ]
    facts = {"devices": len(jax.devices()), "alone": {}, "spread": {}}
    for kind in KINDS:
        for form, size in CHUNKS.items():

            def loss(
                images, texts, scale, bias, captions, kind=kind, size=size
            ):
                return contrastive_loss(
                    images,
                    texts,
                    scale,
                    bias,
                    kind=kind,
                    captions=captions,
                    chunk_size=size,
                )

            derive = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
            for where, arrays in (
                ("alone", (*embeddings, *numbers, captions)),
                ("spread", (*shared[:2], *numbers, shared[2])),
            ):
                compiled = derive.lower(*arrays).compile()
                found = jax.tree.map(
                    lambda x: np.asarray(x).tolist(), compiled(*arrays)
                )
                facts[where][f"{kind} {form}"] = found
            facts[f"{kind} {form}"] = exchanges.found(compiled.as_text())
    facts["encoded"], facts["encoded on"] = encoded(spread)
    print(json.dumps(facts))


def encoded(spread):
    """Embeddings of 9 images without and with devices; how many took part."""
    images = np.random.default_rng(0).random((9, *PIXELS.shape[1:]), "float32")
    model = make_model()
    found = [model.encode_image(images).tolist()]
    weights = model.get_weights()
    keras.distribution.set_distribution(spread)
    model = make_model()
    model.set_weights(weights)
    encoder, seen = model.backbone.image_encoder, set()
    call = encoder.call

    def watched(*arguments, **options):
        output = call(*arguments, **options)
        jax.debug.inspect_array_sharding(
            output, callback=lambda found: seen.add(len(found.device_set))
        )
        return output

    encoder.call = watched
    found.append(model.encode_image(images, batch_size=4).tolist())
    (number,) = seen
    return found, number


if __name__ == "__main__":
    main()
