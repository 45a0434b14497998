"""More than 2^31 elements, through every pass: 9 GB of memory, and a minute or two. pytest -m large"""

import numpy as np
import pytest

import bnfast

pytestmark = [pytest.mark.large, pytest.mark.thread_unsafe(reason="9 GB")]

CHANNELS = 3
PATTERN = np.array([-3, 1, 3, -1], np.float32)  # about a channel's mean; its variance is 5
MEAN = 8 * np.arange(CHANNELS, dtype=np.float32)
EPS = 11.0  # so that 1 / sqrt(var + eps) is 1/4, and all results are exact
LENGTH = ((1 << 31) // (2 * CHANNELS) // 4 + 10) * 4
CASES = {"channels first": ((2, CHANNELS, LENGTH), 1), "channels last": ((2 * LENGTH, CHANNELS), -1)}


@pytest.fixture(scope="module")
def memory():
    return np.empty(2 * CHANNELS * LENGTH, np.float32)


def periods(x, axis):
    """x as many copies of values(), and values as they lie in it."""
    if axis == 1:
        return x.reshape(2, CHANNELS, -1, 4), lambda v: v[:, None, :]
    return x.reshape(-1, 4, CHANNELS), lambda v: v.T


def given():
    return MEAN[:, None] + PATTERN


PASSES = {
    "batch_norm": (
        lambda x, axis: bnfast.batch_norm(x, axis=axis, eps=EPS, out=x),
        np.tile(PATTERN / 4, (CHANNELS, 1)),
    ),
    "normalize": (
        lambda x, axis: bnfast.normalize(x, MEAN, np.full(CHANNELS, 5.0), axis=axis, eps=EPS, out=x),
        np.tile(PATTERN / 4, (CHANNELS, 1)),
    ),
    "batch_norm_backward": (  # of dy = x
        lambda x, axis: bnfast.batch_norm_backward(x, x, bnfast.moments(x, axis=axis), axis=axis, eps=EPS, out=x),
        np.tile(PATTERN * 11 / 64, (CHANNELS, 1)),
    ),
    "normalize_backward": (
        lambda x, axis: bnfast.normalize_backward(x, x, MEAN, np.full(CHANNELS, 5.0), axis=axis, eps=EPS, out=x),
        given() / 4,
    ),
    "instance_norm": (
        lambda x, axis: bnfast.instance_norm(
            x if axis == 1 else x[None], axis=axis, eps=EPS, out=x if axis == 1 else x[None]
        ),
        np.tile(PATTERN / 4, (CHANNELS, 1)),
    ),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", CASES)
def test_more_than_2_to_the_31_elements(memory, case, name):
    shape, axis = CASES[case]
    run, wanted = PASSES[name]
    x = memory.reshape(shape)
    assert x.size > 1 << 31
    copies, lie = periods(x, axis)
    copies[...] = lie(given())
    result = run(x, axis)
    count = 2 * LENGTH
    if name == "batch_norm":
        moments = result[1]
        assert moments.count == count
        np.testing.assert_array_equal(moments.mean, MEAN)
        np.testing.assert_array_equal(moments.m2, np.full(CHANNELS, 5.0 * count))
    if name.endswith("backward"):
        np.testing.assert_array_equal(result[1], np.full(CHANNELS, 5 / 4 * count, np.float32))
        np.testing.assert_array_equal(result[2], (MEAN * float(count)).astype(np.float32))
    along, step = (2, 1 << 22) if axis == 1 else (0, 1 << 22)
    for first in range(0, copies.shape[along], step):
        piece = copies[:, :, first : first + step] if axis == 1 else copies[first : first + step]
        assert (piece == lie(wanted)).all(), first
