"""Tokens meet as they should, and every grouping undoes itself."""

import numpy as np
import pytest
from keras import ops

from keras_moe import grouping

B, N, D = 5, 6, 3
X = np.arange(B * N * D, dtype="float32").reshape(B, N, D)
MASK = np.arange(B * N).reshape(B, N) % 4 != 0


def check_restored(restore, tokens, inputs=X):
    restored = ops.convert_to_numpy(restore(tokens))
    np.testing.assert_array_equal(restored, inputs)


def test_flatten_token_axes():
    image = X.reshape(B, 2, 3, D)
    tokens, mask, restore = grouping.flatten(image, MASK.reshape(B, 2, 3))
    np.testing.assert_array_equal(ops.convert_to_numpy(tokens), X)
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), MASK)
    check_restored(restore, tokens, image)


def test_runs_may_span_sequences_or_part_them():
    for size in (1, 3, 10, 30):
        tokens, mask, restore = grouping.runs(X, MASK, size)
        expected = X.reshape(-1, size, D)
        np.testing.assert_array_equal(ops.convert_to_numpy(tokens), expected)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mask), MASK.reshape(-1, size)
        )
        check_restored(restore, tokens)


@pytest.mark.parametrize("size", [7, 16, 40])
@pytest.mark.parametrize("mask", [None, MASK])
def test_masked_zeros_complete_the_last_run(size, mask):
    tokens, seen, restore = grouping.runs(X, mask, size)
    groups = -(-B * N // size)
    expected = np.zeros((groups * size, D), "float32")
    expected[: B * N] = X.reshape(-1, D)
    there = np.zeros(groups * size, bool)
    there[: B * N] = True if mask is None else mask.reshape(-1)
    for found, array in ((tokens, expected), (seen, there)):
        found = ops.convert_to_numpy(found)
        np.testing.assert_array_equal(
            found, array.reshape(groups, size, *array.shape[1:])
        )
    check_restored(restore, tokens)


@pytest.mark.parametrize("pad_masked", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_across_batch_groups_one_position(size, pad_masked):
    tokens, mask, restore = grouping.across_batch(X, MASK, size, pad_masked)
    tokens_, mask_ = map(ops.convert_to_numpy, (tokens, mask))
    group = 0
    for first in range(0, B, size):
        for position in range(N):
            for place in range(size):
                row = first + place
                missing = row >= B
                token = np.zeros(D) if missing else X[row, position]
                seen = not pad_masked if missing else MASK[row, position]
                np.testing.assert_array_equal(tokens_[group, place], token)
                assert mask_[group, place] == seen
            group += 1
    assert group == len(tokens_)
    check_restored(restore, tokens)


@pytest.mark.parametrize("size", [2, 4, 9])
def test_along_sequence_groups_neighbours(size):
    tokens, mask, restore = grouping.along_sequence(X, None, size)
    groups = -(-N // size)
    padded = np.zeros((B, groups * size, D), "float32")
    padded[:, :N] = X
    np.testing.assert_array_equal(
        ops.convert_to_numpy(tokens), padded.reshape(-1, size, D)
    )
    if N % size == 0:
        assert mask is None
    else:
        seen = np.arange(groups * size) < N
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mask),
            np.broadcast_to(seen, (B, groups * size)).reshape(-1, size),
        )
    check_restored(restore, tokens)


def test_zeros_that_count_need_no_mask():
    _, mask, _ = grouping.across_batch(X, None, 4, pad_masked=False)
    assert mask is None


def test_alone():
    tokens, _, restore = grouping.alone(X, None)
    assert tuple(tokens.shape) == (B * N, 1, D)
    check_restored(restore, tokens)
