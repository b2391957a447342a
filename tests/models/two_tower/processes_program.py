"""Train two towers in two processes of PyTorch, and compare with one process.

Run by `test_loss_devices.py` in a process of its own, which is copied (forked)
for each process of the group. Prints one line of JSON.
"""

import json

import keras
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from keras_moe.distribution import gather_batch
from keras_moe.losses import contrastive_loss
from tests.layers.groups import found_by
from tests.models.support import images_of
from tests.models.two_tower.support import make_backbone
from tests.models.two_tower.support import pairs_of

STEPS, PROCESSES = 2, 2
KINDS = {"sigmoid": None, "softmax": 3}  # and sizes of chunks


def train(inputs, kind, wrapped=lambda model: model, gathered=lambda *x: x):
    """Losses and the weights after some steps of plain gradient descent."""
    keras.utils.set_random_seed(0)
    model = make_backbone(initial_logit_bias=-1.0)
    called = wrapped(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = {name: torch.tensor(value) for name, value in inputs.items()}
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        outputs = called(inputs, training=True)
        images, texts, captions = gathered(
            outputs["image_embeddings"],
            outputs["text_embeddings"],
            inputs["token_ids"],
        )
        loss = contrastive_loss(
            images,
            texts,
            model.similarity.logit_scale,
            model.similarity.logit_bias,
            kind=kind,
            captions=captions,
            chunk_size=KINDS[kind],
        )
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    weights = {w.path: w.numpy().tolist() for w in model.weights}
    return {"losses": losses, "weights": weights}


def process(rank, processes, folder, inputs):
    """What one process of a group finds."""
    own = {name: np.split(x, processes)[rank] for name, x in inputs.items()}
    return {
        kind: train(own, kind, DistributedDataParallel, gather_batch)
        for kind in KINDS
    }


def main():
    # Captions of the first and the last pair are equal, in both processes.
    inputs = pairs_of(images_of(4), [3, 4, 5], [6, 2], [3, 7, 2], [3, 4, 5])
    facts = {"alone": {kind: train(inputs, kind) for kind in KINDS}}
    facts["both"] = found_by(process, PROCESSES, inputs)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
