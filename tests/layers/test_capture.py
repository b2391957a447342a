"""Blocks of `capture` see their own calls, all of them, each under its name."""

import asyncio
import threading

import keras
import numpy as np
import pytest

from keras_moe import diagnostics
from keras_moe import layers
from keras_moe import routing
from keras_moe.diagnostics import RouterMonitor
from keras_moe.diagnostics import capture

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(2, 8, 6)).astype("float32")


def soft(name=None):
    return layers.SoftMoE(2, 1, intermediate_dim=3, name=name)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A layer that Keras builds by running it on shapes."""

    def __init__(self):
        super().__init__()
        self.moe = soft("moe")

    def call(self, inputs):
        return inputs + self.moe(inputs)


def in_thread(function):
    """Run it in another thread to its end; raise what it raised."""
    errors = []

    def run():
        try:
            function()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


# === Whose calls a block sees ===


def test_blocks_may_end_in_the_order_in_which_they_began():
    layer = soft()
    one, other = capture(), capture()
    first = one.__enter__()
    layer(X)
    second = other.__enter__()
    layer(X)
    one.__exit__(None, None, None)
    layer(X)
    other.__exit__(None, None, None)
    layer(X)
    assert list(first) == list(second) == [layer.path, f"{layer.path}#2"]


def test_calls_of_another_thread_are_not_of_the_block():
    layer, other = soft("here"), soft("there")
    with capture() as plans:
        in_thread(lambda: other(X))
        layer(X)
    assert list(plans) == [layer.path]


def test_a_block_of_another_thread_ends_itself():
    layer = soft()
    began, ended = threading.Event(), threading.Event()
    seen = []

    def other():
        with capture() as plans:
            layer(X)
            began.set()
            assert ended.wait(60)
        seen.append(list(plans))

    layer.build((None, 8, 6))
    thread = threading.Thread(target=other)
    with capture() as plans:
        thread.start()
        assert began.wait(60)
        layer(X)
    ended.set()
    thread.join()
    assert list(plans) == [layer.path]
    assert seen == [[layer.path]]


def test_a_model_may_train_in_another_thread():
    layer = soft()
    model = keras.Sequential([keras.Input((8, 6)), soft("trained")])
    model.compile(loss="mse")
    with capture() as plans:
        in_thread(lambda: model.fit(X, X, verbose=0))
        layer(X)
    assert list(plans) == [layer.path]


def test_asyncio_tasks_see_their_own_calls():
    layer = soft()
    layer(X)

    async def look(number):
        with capture() as plans:
            for _ in range(number):
                await asyncio.sleep(0)
                layer(X)
            await asyncio.sleep(0)
        return len(plans)

    async def all_of_them():
        return await asyncio.gather(*(look(n) for n in (1, 2, 3)))

    assert asyncio.run(all_of_them()) == [1, 2, 3]


def test_a_task_that_a_block_began_is_seen_until_the_block_ends():
    layer = soft()

    async def call(ready):
        layer(X)
        await ready.wait()
        layer(X)

    async def look():
        ready = asyncio.Event()
        with capture() as plans:
            task = asyncio.create_task(call(ready))
            await asyncio.sleep(0)
        ready.set()
        await task
        return list(plans)

    assert asyncio.run(look()) == [layer.path]


# === Calls without values, and blocks without calls ===


def test_a_block_that_saw_nothing_raises():
    with pytest.raises(RuntimeError, match="saw no keras_moe layer"), capture():
        pass


def test_a_block_that_raised_raises_just_that():
    with pytest.raises(KeyError, match="inside"), capture():
        raise KeyError("inside")
    layer = soft()
    with capture() as plans:
        layer(X)
    assert list(plans) == [layer.path]


def test_a_model_that_was_compiled_before_is_not_passed_over():
    layer = soft()
    model = keras.Sequential([keras.Input((8, 6)), layer])
    model.compile(jit_compile=BACKEND == "jax")
    model.predict(X, verbose=0)
    if BACKEND == "torch":  # predict is eager there
        with capture() as plans:
            model.predict(X, verbose=0)
        assert list(plans) == [layer.path]
        return
    with (
        pytest.raises(RuntimeError, match="that was compiled before"),
        capture(),
    ):
        model.predict(X, verbose=0)


@pytest.mark.parametrize("sequential", [True, False])
def test_building_is_no_call(sequential):
    """Keras runs a block on shapes, to make its weights, before its call."""
    block = Block()
    model = keras.Sequential([block]) if sequential else block
    with capture() as plans:
        model(X)
    (plan,) = plans.values()
    assert list(plans) == [block.moe.path]
    dispatch, _ = plan.weights()
    total = keras.ops.convert_to_numpy(dispatch).sum(axis=1)
    np.testing.assert_allclose(total, np.ones((2, 2, 1)), rtol=1e-5)


def test_a_block_that_saw_only_shapes_raises():
    with (
        pytest.raises(RuntimeError, match="nor calls on keras.Input"),
        capture(),
    ):
        Block()(keras.Input((8, 6)))


def test_fit_of_an_unbuilt_model():
    model = keras.Sequential([Block()])
    model.compile(loss="mse", jit_compile=BACKEND == "jax")
    if BACKEND == "torch":  # fit is eager there
        with capture() as plans:
            model.fit(X, X, verbose=0)
        (plan,) = plans.values()
        assert not plan.tokens.is_meta
        return
    with (
        pytest.raises(RuntimeError, match="sees eager calls only"),
        capture(),
    ):
        model.fit(X, X, verbose=0)


if BACKEND == "torch":

    def test_arrays_on_meta_raise():
        import torch

        nothing = torch.ones(X.shape, device="meta")
        plan = routing.SoftPlan(nothing, torch.ones(6, 2, 1, device="meta"))
        with (
            pytest.raises(RuntimeError, match="sees eager calls only"),
            capture(),
        ):
            diagnostics.record(soft(), plan)

    def test_a_layer_compiles_whole():
        """What asks for open blocks must not break PyTorch's graph."""
        import torch

        layer = soft()
        expected = layer(X)
        whole = torch.compile(layer, fullgraph=True, backend="eager")
        inputs = torch.tensor(X, device=expected.device)
        torch.testing.assert_close(whole(inputs), expected)
        with (
            pytest.raises(RuntimeError, match="sees eager calls only"),
            capture(),
        ):
            whole(inputs)


# === Names ===


def test_layers_of_one_path_are_told_from_calls_of_one_layer():
    one, other, third = (soft("moe") for _ in range(3))
    called = [one, other, one, third, other]
    with capture() as plans:
        for layer in called:
            layer(X)
    assert list(plans) == ["moe", "moe@2", "moe#2", "moe@3", "moe@2#2"]
    assert list(plans.layers.values()) == called
    assert list(plans.layers) == list(plans)


def test_a_layer_that_is_named_like_a_second_call():
    one, other = soft("moe"), soft("moe#2")
    called = [one, other, one]
    with capture() as plans:
        for layer in called:
            layer(X)
    assert list(plans.layers.values()) == called
    assert len(plans) == 3


def test_router_monitor_logs_each_layer_of_a_path():
    model = keras.Sequential([keras.Input((8, 6)), Twins()])
    model.compile(loss="mse")
    history = model.fit(X, X, verbose=0, callbacks=[RouterMonitor(X)]).history
    names = {k.rsplit("/")[-2] for k in history if k.endswith("/entropy")}
    assert names == {"moe", "moe@2"}


class Twins(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.one, self.other = soft("moe"), soft("moe")

    def build(self, shape):
        self.one.build(shape)
        self.other.build(shape)

    def call(self, inputs):
        return self.one(inputs) + self.other(inputs)

    def compute_output_shape(self, shape):
        return shape


def test_blocks_leave_nothing_behind():
    assert diagnostics._blocks() == []
