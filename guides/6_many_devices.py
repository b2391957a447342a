# %% [markdown]
# # 6. Train on many devices
#
# A mixture of experts has many weights and does little with each. So it is the
# memory of a device that runs out first, and the way out is to spread the
# *experts*: each device holds some of them, and tokens travel to the experts
# they need. All other weights are small, and every device has a copy.
#
# You will see how many devices a model needs, then train on several of them.
# You need no accelerators: the processor of any computer can pretend to be
# eight devices, which makes nothing faster but everything testable. What is
# possible depends on the backend; the cells below do what yours offers. It
# takes less than a minute on one core.

# %% [markdown]
# In a clone of the project, install `-e ".[jax,demo]"` instead.

# %% tags=["skip-execution"]
# %pip install -q "keras-moe[jax,demo]"

# %% [markdown]
# The devices must be there before JAX or TensorFlow starts. Leave the lines
# that make them out where you have real ones.

# %%
import os

# Before Keras is imported. "torch" and "tensorflow" do as well.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tensors are small; several threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
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
if BACKEND == "tensorflow":  # its devices, before anything is computed
    import tensorflow as tf

    tf.get_logger().setLevel("WARNING")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(2)],
    )

# %% [markdown]
# ## How many devices does a model need?
#
# The Soft MoE paper's S/14 with 256 experts has 1.8 billion parameters. What is
# on each device while it trains with Adam, if experts are spread? This needs
# the shapes of the weights alone.

# %%
made = []


def make():
    made.append(models.MoEViTBackbone.from_architecture("soft_moe_s14"))
    return made[0]


shapes = models.weight_shapes(make)
counts = [1, 2, 4, 8, 16, 32]
plans = [
    planning.plan(made[0], shapes, count, device_bytes=16 * 10**9, batch=16)
    for count in counts
]
print(f"{plans[0].parameters / 1e9:.2f} billion parameters")
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
places = np.arange(len(counts))
weights = np.array([plan.parameter_bytes for plan in plans]) / 1e9
kept = np.array([plan.activation_bytes for plan in plans]) / 1e9
axis.bar(places, weights, color="tab:red", label="weights and Adam's moments")
axis.bar(places, kept, bottom=weights, color="gray", label="activations")
axis.axhline(16, color="black", linestyle="--", label="a device of 16 GB")
axis.set_xticks(places, counts)
axis.set(xlabel="devices", ylabel="GB on each")
axis.legend()
plt.show()

# %% [markdown]
# `python -m keras_moe plan` prints the same for any architecture of the papers,
# up to 54 billion parameters.
#
# ## A small model to train
#
# Digits of 8 x 8 pixels, as 16 tokens each; one Soft MoE with 8 experts.

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
    """A new model, and its loss in each of two epochs of `fit`."""
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
# ## JAX: experts on their devices
#
# `expert_parallel()` is a `keras.distribution`: a model that is built in its
# scope has its experts spread. Nothing else changes, neither the model nor
# `fit`, and nor does the result.

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
# Of the experts' weights each device has an eighth. With more devices than
# experts, or to have fewer tokens travel far, make rows:
# `expert_parallel(expert_devices=4)` is two rows of four devices, of which each
# row holds all experts once.
#
# ## TensorFlow: copies of the model
#
# `tf.distribute.MirroredStrategy` gives each device a whole copy of the model
# and a part of each batch. It makes training faster, not models smaller. Two
# logical devices of the processor show it; use no argument for all your GPUs.

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
# Keras' `fit` runs on one device there. But a Keras model is a
# `torch.nn.Module`, which `DistributedDataParallel` takes: each process has a
# whole copy and its part of the batch, and gradients are averaged. The loop is
# your own, in a program that `torchrun` starts; here in two processes of the
# processor, `nccl` instead of `gloo` is for GPUs.

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
# The losses are those of one device, to rounding; with PyTorch nearly, as its
# Adam adds its epsilon at another place than Keras'. What is spread is the work
# or the memory, not what is computed. (Layers that route over a whole batch,
# such as Mixture of Tokens, see the batch of all devices with JAX, and of one
# device with the others.)
#
# On real accelerators none of this was run by the project: its tests run on
# virtual devices, as this guide does.
#
# ## Exercises
#
# 1. Plan `soft_moe_h14`, 54 billion parameters, for 64 devices of 32 GB.
#    What has to give?
# 2. With JAX, train with `keras.distribution.DataParallel()` instead. What is
#    the shape of an expert's weights on one device now?
# 3. Take a batch of 100. What does `expert_parallel` say?
