"""These tests compile many programs that run once."""

import pytest

from tests import support


@pytest.fixture(scope="session", autouse=True)
def compile_quickly():
    with support.quick_compilation():
        yield
