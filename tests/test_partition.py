"""The partition alone: how evenly the work falls to 1 to 64 threads. No such machine is needed."""

import itertools

import pytest

from bnfast import _call, _channels_first, _channels_last, _machine

# Channels and side of the maps that ResNet-50 normalizes.
RESNET = [(64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14), (1024, 14), (512, 14)]
RESNET += [(512, 7), (2048, 7)]
AWKWARD = [(1, 3, 1024), (8, 3, 512), (1, 1, 2048), (1, 64, 512), (256, 1, 64)]
SHAPES = [(n, c, side) for n in (1, 32) for c, side in RESNET] + AWKWARD


@pytest.mark.parametrize(("n", "channels", "side"), SHAPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_threads_get_equal_parts(n, channels, side, layout):
    size = n * channels * side * side
    for asked, work in itertools.product(range(1, 65), (size, size * 3 // 2)):
        threads = _machine.call_threads(work, asked)
        if layout == "nchw" or channels == 1:
            view = (n, channels, side * side) if channels > 1 else (1, 1, n * side * side)
            shares = _channels_first.shares(view, threads)
        else:
            shares = _channels_last.shares((n * side * side, channels, 1), threads)
        assert sum(shares) == size
        assert max(shares) <= 1.1 * size / threads, (threads, shares)


@pytest.mark.parametrize(("n", "channels", "side"), [shape for shape in SHAPES if shape[0] > 1] + [(5, 64, 56)])
def test_threads_get_equal_parts_of_samples(n, channels, side):
    """Group and instance norm, channels last."""
    size = channels * side * side
    for asked in range(1, 65):
        threads = _machine.call_threads(n * size * 3 // 2, asked)
        alone, shared = _call.samples_alone(n, (side * side, channels, 1), threads)
        assert sum(alone) + shared == n
        each = _channels_last.shares((side * side, channels, 1), threads)
        most = max(alone) * size + shared * max(each)
        assert most <= 1.1 * n * size / threads or most - n * size / threads < 1 << 17, (threads, alone, shared)


def test_small_work_stays_on_few_threads():
    assert _machine.call_threads(8 * 16 * 8 * 8, 64) == 1
    assert _machine.call_threads(1 << 18, 64) == 8
    assert _machine.call_threads(1 << 30, 64) == 64
