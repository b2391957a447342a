# %% [markdown]
# # 6. Train on many devices
#
# A mixture of experts has many weights and computes little with each, so memory
# is often the limit. Expert parallelism spreads the *experts*: each device
# holds some experts, and tokens are sent to the devices of their experts. All
# other weights are small, and every device holds a copy.
#
# This guide computes how many devices a model needs and then trains on several
# devices. It needs no accelerators: a CPU can act as eight virtual devices,
# which is not faster, but tests the program. The cells below run what your
# backend supports. The guide takes about a minute on one core.

# %% tags=["setup"]
EXTRAS = "jax,demo"

# Eight virtual devices of the CPU, for JAX. Leave this out with real devices.
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

# %%
# %matplotlib inline
import inspect
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import keras_moe
from keras_moe import distribution
from keras_moe import models
from keras_moe import planning

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":  # create devices before the first operation
    import tensorflow as tf

    tf.get_logger().setLevel("WARNING")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(2)],
    )

# %% [markdown]
# ## How many devices does a model need?
#
# The Soft MoE paper's S/14 with 256 experts has 1.8 billion parameters. The
# plot shows the memory of each device during training with Adam and expert
# parallelism. `planning` computes it from the shapes of the weights.

# %%
backbones = []


def make():
    backbones.append(models.MoEViTBackbone.from_architecture("soft_moe_s14"))
    return backbones[0]


shapes = models.weight_shapes(make)
counts = [1, 2, 4, 8, 16, 32]
plans = [
    planning.plan(
        backbones[0], shapes, count, device_bytes=16 * 10**9, batch=16
    )
    for count in counts
]
print(f"{plans[0].parameters / 1e9:.2f} billion parameters")
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
places = np.arange(len(counts))
weights = np.array([plan.parameter_bytes for plan in plans]) / 1e9
activations = np.array([plan.activation_bytes for plan in plans]) / 1e9
axis.bar(places, weights, color="tab:red", label="weights and Adam's moments")
axis.bar(places, activations, bottom=weights, color="gray", label="activations")
axis.axhline(16, color="black", linestyle="--", label="a device of 16 GB")
axis.set_xticks(places, counts)
axis.set(xlabel="devices", ylabel="GB on each device")
axis.legend()
plt.show()

# %% [markdown]
# `python -m keras_moe plan` prints these numbers for any architecture of the
# papers, up to 54 billion parameters.
#
# ## A small model to train
#
# The model reads digits of 8 x 8 pixels as 16 tokens and has one Soft MoE layer
# with 8 experts.

# %%
digits = load_digits()
patches = digits.images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
patches = patches.reshape(-1, 16, 4).astype("float32") / 16
x, y = patches[:1024], digits.target[:1024]


def build():
    """The same model each time, with the same weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 4))
    tokens = keras.layers.Dense(32)(inputs)
    tokens = tokens + keras_moe.layers.SoftMoE(8, 2, intermediate_dim=64)(
        tokens
    )
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(tokens))
    return keras.Model(inputs, outputs)


def train():
    """Train a new model for two epochs; return it and its losses."""
    model = build()
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(x, y, 128, 2, shuffle=False, verbose=0)
    return model, history.history["loss"]


alone, losses = train()
print("losses on one device", losses)

# %% [markdown]
# ## JAX: expert parallelism
#
# `expert_parallel()` is a `keras.distribution`: it spreads the experts of
# models built in its scope. The code of the model and of `fit` and the result
# stay the same.

# %%
if BACKEND == "jax":
    spread = distribution.expert_parallel()
    mesh = spread.device_mesh
    print("mesh", dict(zip(mesh.axis_names, mesh.shape)))
    with spread.scope():
        model, spread_losses = train()
    print("losses on 8 devices ", spread_losses)
    for weight in model.weights:
        here = weight.value.addressable_shards[0].data.shape
        print(f"{weight.path:<32} {str(tuple(weight.shape)):<14} here {here}")

# %% [markdown]
# Each device holds an eighth of the experts' weights. With more devices than
# experts, or to send tokens between fewer devices, arrange the devices in rows:
# `expert_parallel(expert_devices=4)` makes two rows of four devices, and each
# row holds all experts.
#
# ## TensorFlow: copies of the model
#
# `tf.distribute.MirroredStrategy` gives each device a copy of the model and a
# part of each batch. Training becomes faster; the memory of the weights stays
# the same. This cell uses two logical devices of the CPU. Without an argument
# the strategy uses all GPUs.

# %%
if BACKEND == "tensorflow":
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print("copies:", strategy.num_replicas_in_sync)
    with strategy.scope():
        model, spread_losses = train()
    print("losses with 2 copies", spread_losses)

# %% [markdown]
# ## PyTorch: one process for each device
#
# With PyTorch, `fit` runs on one device. But a Keras model is a
# `torch.nn.Module`, so `DistributedDataParallel` takes it: each process has a
# copy of the model and a part of each batch, and the gradients are averaged.
# `torchrun` starts a program with your own training loop, here in two processes
# on the CPU. Use `nccl` instead of `gloo` on GPUs.

# %%
PROGRAM = """\
import os

import keras
import numpy as np
import torch

import keras_moe

{build}

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.distributed.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(build())
optimizer = torch.optim.Adam(model.parameters(), 3e-3, eps=1e-7)
with np.load("digits.npz") as arrays:
    x, y = torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
losses = []
for epoch in range(2):
    total = 0.0
    for start in range(0, len(x), 128):
        part = slice(start + rank, start + 128, world)
        loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        torch.distributed.all_reduce(loss)
        total += loss.item() / world
    losses.append(total / (len(x) // 128))
if rank == 0:
    print("losses with 2 processes", losses)
torch.distributed.destroy_process_group()
"""
if BACKEND == "torch":
    scratch = tempfile.TemporaryDirectory()
    folder = pathlib.Path(scratch.name)
    np.savez(folder / "digits.npz", x=x, y=y)
    program = PROGRAM.format(build=inspect.getsource(build))
    (folder / "program.py").write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    print(done.stdout or done.stderr)
    done.check_returncode()

# %% [markdown]
# The losses equal those of one device up to rounding. PyTorch's differ slightly
# more, because its Adam adds epsilon at another place than Keras'. Layers that
# route over a batch, such as Mixture of Tokens, see the batch of all devices
# with JAX and the batch of one device with TensorFlow and PyTorch.
#
# The project's tests run this on virtual devices, as this guide does, not on
# accelerators.
#
# ## Exercises
#
# 1. Plan `soft_moe_h14`, 54 billion parameters, for 64 devices of 32 GB. Does
#    it fit?
# 2. With JAX, train with `keras.distribution.DataParallel()` instead. Which
#    shape do an expert's weights have on one device?
# 3. Use a batch of 100. Which error does `expert_parallel` raise?
