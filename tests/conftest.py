"""Which tests run where."""

from tests.support import BACKEND

# Of the three, the one that the tests of files run on: it starts quickest.
FILES_ON = "torch"


def pytest_collection_modifyitems(config, items):
    """Leave out tests that compute nothing, on all backends but one.

    They carry the marker `files`: damaged files, downloads, cards, commands.
    """
    if BACKEND == FILES_ON:
        return
    left_out = [i for i in items if i.get_closest_marker("files") is not None]
    if left_out:
        items[:] = [i for i in items if i.get_closest_marker("files") is None]
        config.hook.pytest_deselected(items=left_out)
