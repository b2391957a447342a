"""Which tests run where, and what they share."""

import gc
import os
import random
import signal
import tempfile

import pytest

from tests.support import BACKEND

# Of the three, the one that tests marked `once` run on: it starts quickest.
ONCE_ON = "torch"
# On JAX most of the time goes into compiling small programs that run once, and
# half of that into making them quick. Fast paths are held against the reference
# in this file, as users have them.
OPTIMIZED = ("test_soft_routing",)
# Where the workers of one run keep programs that JAX has compiled: many tests
# need the same ones. Named in the environment, which workers take over.
PROGRAMS = "KERAS_MOE_TESTS_PROGRAMS"


def pytest_configure(config):
    """Let tests send Ctrl-C where a shell lets its programs ignore it.

    It does so for those that it starts in the background.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if BACKEND == "jax":
        share_programs(config)


def share_programs(config):
    """Have JAX keep compiled programs in a folder of this run alone."""
    import jax

    if PROGRAMS not in os.environ:  # the process that starts the workers
        folder = tempfile.TemporaryDirectory(prefix="keras_moe_programs_")
        config.add_cleanup(folder.cleanup)
        os.environ[PROGRAMS] = folder.name
    jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_runtest_setup(item):
    # Keras draws the seeds of layers here that are given none: a test has the
    # same weights in each run.
    random.seed(item.nodeid)
    if BACKEND == "jax":
        import jax

        quick = item.path.stem not in OPTIMIZED
        jax.config.update("jax_disable_most_optimizations", quick)


def pytest_collection_modifyitems(config, items):
    """Leave out tests marked `once` on all backends but one.

    They are of files, texts, downloads and commands: damaged checkpoints,
    tokens, a Hub that fails, model cards, what training leaves behind.
    """
    if BACKEND == ONCE_ON:
        return
    left_out = [i for i in items if i.get_closest_marker("once") is not None]
    if left_out:
        items[:] = [i for i in items if i.get_closest_marker("once") is None]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def quick_quantization(monkeypatch):
    """Keras collects garbage after each layer: most of a second, each time."""
    monkeypatch.setattr(gc, "collect", lambda: None)
