"""Timing beside the plain NumPy formula, in turns, the best of each."""

from __future__ import annotations

import time

import numpy as np

from . import functional as F


def passes(shape, axis, dtype, num_threads):
    """{pass: (bnfast call, NumPy call)}, each writing into memory that is there already where it can."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    channels = x.shape[axis]
    gamma, beta, mean, var = (np.full(channels, v, dtype) for v in (1.1, 0.1, 0.2, 1.3))
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    view = [1] * x.ndim
    view[axis] = channels
    g, b, m, v = (a.reshape(view) for a in (gamma, beta, mean, var))
    out = np.zeros_like(x)
    _, moments = F.batch_norm(x, gamma, beta, axis=axis)
    common = dict(axis=axis, out=out, num_threads=num_threads)

    def numpy_forward():
        centered = x - x.mean(axes, keepdims=True)
        inv = 1 / np.sqrt((centered * centered).mean(axes, keepdims=True) + 1e-5)
        return centered * (g * inv) + b

    def numpy_inference():
        scale = g / np.sqrt(v + 1e-5)
        return x * scale + (b - m * scale)

    def numpy_backward():
        inv = 1 / np.sqrt(moments.var.astype(dtype).reshape(view) + 1e-5)
        xhat = (x - moments.mean.astype(dtype).reshape(view)) * inv
        dbeta, dgamma = dy.mean(axes, keepdims=True), (dy * xhat).mean(axes, keepdims=True)
        return g * inv * (dy - dbeta - xhat * dgamma)

    return {
        "forward": (lambda: F.batch_norm(x, gamma, beta, **common), numpy_forward),
        "inference": (lambda: F.normalize(x, mean, var, gamma, beta, **common), numpy_inference),
        "backward": (lambda: F.batch_norm_backward(dy, x, moments, gamma, **common), numpy_backward),
    }


def compare(calls, seconds=1.0):
    """Best time of each call in ms, taken in turns so that a busy moment of the machine meets all of them."""
    best = [np.inf] * len(calls)
    end = time.perf_counter() + seconds
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
        turns += 1
    return [t * 1e3 for t in best]


def run(shapes, axis, dtype, num_threads, seconds=1.0):
    """Print a table; returns {(shape, pass): speed-up}."""
    ratios = {}
    print(f"{'shape':<20}{'pass':<12}{'bnfast':>12}{'NumPy':>12}{'speed-up':>12}   ms, {dtype}, axis {axis}")
    for shape in shapes:
        for name, calls in passes(shape, axis, dtype, num_threads).items():
            ours, numpys = compare(calls, seconds)
            ratios[shape, name] = numpys / ours
            label = "x".join(map(str, shape))
            print(f"{label:<20}{name:<12}{ours:>12.3f}{numpys:>12.3f}{numpys / ours:>11.1f}x", flush=True)
    return ratios
