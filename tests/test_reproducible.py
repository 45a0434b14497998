"""The same bits for any number of threads. Run for each ISA by test_isa.py."""

import threading

import numpy as np
import pytest
from zoo import CASES, THREADS, parameters, same_bits

import bnfast

LARGE = [
    ((32, 64, 56, 56), 1),
    ((32, 56, 56, 64), -1),
    ((1, 3, 1024, 1024), 1),
    ((1, 1024, 1024, 3), -1),
    ((256, 1000), 1),
    ((256, 1000), 0),
    ((4, 200, 17, 16), 1),
    ((4, 17, 16, 200), -1),
    ((1, 512, 512, 1), -1),
    ((70, 5, 41, 43), 1),
    ((67, 2500), 1),  # rows of tiles, shared out in the middle of one
    ((5, 17, 4096), -1),
]


def every_pass(x, dy, axis, threads):
    gamma, beta = parameters(x.shape[axis])
    common = dict(axis=axis, num_threads=threads)
    y, moments = bnfast.batch_norm(x, gamma, beta, **common)
    return [
        y,
        moments.mean,
        moments.m2,
        bnfast.normalize(x, moments.mean, moments.var, gamma, beta, **common),
        *bnfast.batch_norm_backward(dy, x, moments, gamma, **common),
        *bnfast.normalize_backward(dy, x, moments.mean, moments.var, gamma, **common),
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_same_bits_for_any_thread_count(shape, axis, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, np.float32).astype(dtype) * 3 + 1 for _ in range(2))
    first = every_pass(x, dy, axis, THREADS[0])
    for threads in THREADS[1:]:
        for a, b in zip(first, every_pass(x, dy, axis, threads), strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE[2:6] + LARGE[-2:])
def test_exact_sums_are_equal_in_both_layouts(shape, axis):
    """Small integers sum exactly in any order, so nothing may depend on the layout."""
    rng = np.random.default_rng(1)
    x, dy = (rng.integers(-4, 5, shape).astype(np.float32) for _ in range(2))
    other = 1 if axis in (-1, x.ndim - 1) else -1
    moved = [np.ascontiguousarray(np.moveaxis(a, axis, other)) for a in (x, dy)]
    for a, b in zip(every_pass(x, dy, axis, None), every_pass(*moved, other, None), strict=True):
        assert same_bits(np.ascontiguousarray(np.moveaxis(a, axis, other)) if a.ndim > 1 else a, b)


def test_the_work_is_really_shared():
    """A thread count that nothing obeys would make the tests above empty: look at the process while it works."""
    if not bnfast.show_config("dicts")["openmp"]:
        pytest.skip("built without OpenMP")
    x, seen, done = np.ones((64, 64, 32, 32), np.float32), 0, threading.Event()

    def work():
        while not done.is_set():
            bnfast.batch_norm(x, num_threads=7)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(200):
            with open("/proc/self/status") as file:
                seen = max(seen, int(next(line for line in file if line.startswith("Threads:")).split()[1]))
            if seen >= 8:
                break
            done.wait(0.01)
    finally:
        done.set()
        worker.join()
    assert seen >= 8
