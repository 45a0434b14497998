"""More than 2^31 elements, through every pass: 9 GB of memory, and some minutes. pytest -m large"""

import numpy as np
import pytest

import bnfast

pytestmark = [pytest.mark.large, pytest.mark.thread_unsafe(reason="9 GB")]

CHANNELS = 3
PATTERN = np.array([-3, 1, 3, -1], np.float32)  # about a channel's mean; its variance is 5
MEAN = 8 * np.arange(CHANNELS, dtype=np.float32)
VAR = np.full(CHANNELS, 5.0)
EPS = 11.0  # so that 1 / sqrt(var + eps) is 1/4, and all results are exact
ROW = 1024  # of a layer norm: part of a channel
LENGTH = ((1 << 31) // (2 * CHANNELS) // ROW + 10) * ROW
SIZE = 2 * CHANNELS * LENGTH
LAYOUTS = {"channels first": ((2, CHANNELS, LENGTH), 1), "channels last": ((2 * LENGTH, CHANNELS), -1)}
# What fits 9 GB: float32 written over itself, float16 beside itself.
KINDS = {"float32": lambda memory: (memory, memory), "float16": lambda memory: memory.view(np.float16).reshape(2, SIZE)}

GIVEN = MEAN[:, None] + PATTERN
NORMALIZED = np.tile(PATTERN / 4, (CHANNELS, 1))
GRADIENT = np.tile(PATTERN * 11 / 64, (CHANNELS, 1))  # of dy = x
ROW_MOMENTS = bnfast.Moments(
    ROW, np.tile(np.repeat(MEAN, LENGTH // ROW), 2), np.full(SIZE // ROW, 5.0 * ROW)
)  # of a layer norm


@pytest.fixture(scope="module")
def memory():
    return np.empty(SIZE, np.float32)


def periods(x, axis):
    """x as many copies of a channel's 4 values, and how these lie in it."""
    if axis == 1:
        return x.reshape(2, CHANNELS, -1, 4), lambda v: v[:, None, :]
    return x.reshape(-1, 4, CHANNELS), lambda v: v.T


def samples(x, axis):
    return x if axis == 1 else x[None]


def rows(x):
    return x.reshape(-1, ROW)


PASSES = {
    "batch_norm": (lambda x, axis, **more: bnfast.batch_norm(x, axis=axis, **more), NORMALIZED),
    "normalize": (lambda x, axis, **more: bnfast.normalize(x, MEAN, VAR, axis=axis, **more), NORMALIZED),
    "batch_norm_backward": (
        lambda x, axis, **more: bnfast.batch_norm_backward(x, x, bnfast.moments(x, axis=axis), axis=axis, **more),
        GRADIENT,
    ),
    "normalize_backward": (
        lambda x, axis, **more: bnfast.normalize_backward(x, x, MEAN, VAR, axis=axis, **more),
        GIVEN / 4,
    ),
    "instance_norm": (
        lambda x, axis, out, eps: bnfast.instance_norm(samples(x, axis), axis=axis, out=samples(out, axis), eps=eps),
        NORMALIZED,
    ),
    "layer_norm": (lambda x, axis, out, eps: bnfast.layer_norm(rows(x), out=rows(out), eps=eps), NORMALIZED),
    "layer_norm_backward": (
        lambda x, axis, out, eps: bnfast.layer_norm_backward(rows(x), rows(x), ROW_MOMENTS, out=rows(out), eps=eps),
        GRADIENT,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layout", "name"), [(a, b) for a in LAYOUTS for b in PASSES if a == "channels first" or "layer" not in b]
)
def test_more_than_2_to_the_31_elements(memory, layout, name, kind):
    shape, axis = LAYOUTS[layout]
    run, wanted = PASSES[name]
    x, out = (part.reshape(shape) for part in KINDS[kind](memory))
    assert x.size > 1 << 31
    copies, lie = periods(x, axis)
    copies[...] = lie(GIVEN)
    result = run(x, axis, out=out, eps=EPS)
    count = 2 * LENGTH
    if name == "batch_norm":
        moments = result[1]
        assert moments.count == count
        np.testing.assert_array_equal(moments.mean, MEAN)
        np.testing.assert_array_equal(moments.m2, VAR * count)
    if name == "layer_norm":
        np.testing.assert_array_equal(result[1].mean, ROW_MOMENTS.mean)
        np.testing.assert_array_equal(result[1].m2, ROW_MOMENTS.m2)
    if name == "layer_norm_backward":
        each = np.tile(GIVEN, ROW // 4).astype(np.float64)  # in the rows of a channel
        wanted_gamma = count / ROW * (each * np.tile(PATTERN / 4, ROW // 4)).sum(0)
        np.testing.assert_array_equal(result[1], wanted_gamma.astype(np.float32))
        np.testing.assert_array_equal(result[2], (count / ROW * each.sum(0)).astype(np.float32))
    elif name.endswith("backward"):
        np.testing.assert_array_equal(result[1], np.full(CHANNELS, 5 / 4 * count, np.float32))
        np.testing.assert_array_equal(result[2], (MEAN * float(count)).astype(np.float32))
    copies, _ = periods(out, axis)
    along, step = (2, 1 << 22) if axis == 1 else (0, 1 << 22)
    for first in range(0, copies.shape[along], step):
        piece = copies[:, :, first : first + step] if axis == 1 else copies[first : first + step]
        assert (piece == lie(wanted)).all(), first
