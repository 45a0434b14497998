"""The oracle: the formulas in float64 NumPy, as they are written in the paper. Slow, and meant to be read.

Ioffe & Szegedy (2015), "Batch Normalization", arXiv:1502.03167. The compiled kernels are held against these.
"""

from __future__ import annotations

import numpy as np


def _prepare(x, axis, *vectors):
    """x in float64, the axes of the statistics, and each vector shaped to broadcast along `axis`."""
    x = np.asarray(x, np.float64)
    axis %= x.ndim
    shape = [x.shape[axis] if i == axis else 1 for i in range(x.ndim)]
    axes = tuple(i for i in range(x.ndim) if i != axis)
    return x, axes, *(np.broadcast_to(np.asarray(v, np.float64), x.shape[axis]).reshape(shape) for v in vectors)


def moments(x, *, axis=1):
    """(mean, var) of each channel, var biased. Two passes, the first taken about an element so that it is exact."""
    x, axes = _prepare(x, axis)
    first = x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))]
    first = np.where(np.isfinite(first), first, 0)
    mean = first + (x - first).mean(axes, keepdims=True)
    # The mean is rounded; subtracting the square of what that leaves makes the variance right again.
    off = x - mean
    var = (off * off).mean(axes, keepdims=True) - off.mean(axes, keepdims=True) ** 2
    return mean.reshape(-1), np.maximum(var, 0).reshape(-1)


def normalize(x, mean, var, gamma=1.0, beta=0.0, *, axis=1, eps=1e-5):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta."""
    x, _, mean, var, gamma, beta = _prepare(x, axis, mean, var, gamma, beta)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


def batch_norm(x, gamma=1.0, beta=0.0, *, axis=1, eps=1e-5):
    """(y, mean, var): normalize() by the batch's own statistics."""
    mean, var = moments(x, axis=axis)
    return normalize(x, mean, var, gamma, beta, axis=axis, eps=eps), mean, var


def normalize_backward(dy, x, mean, var, gamma=1.0, *, axis=1, eps=1e-5):
    """(dx, dgamma, dbeta) of normalize(), mean and var being constants."""
    xhat = normalize(x, mean, var, axis=axis, eps=eps)
    dy, axes, var, gamma = _prepare(dy, axis, var, gamma)
    return dy * gamma / np.sqrt(var + eps), (dy * xhat).sum(axes), dy.sum(axes)


def batch_norm_backward(dy, x, gamma=1.0, *, axis=1, eps=1e-5):
    """(dx, dgamma, dbeta) of batch_norm(), through its statistics."""
    y, mean, var = batch_norm(x, axis=axis, eps=eps)  # y is xhat
    dy, axes, var, gamma = _prepare(dy, axis, var, gamma)
    through = dy - dy.mean(axes, keepdims=True) - y * (dy * y).mean(axes, keepdims=True)
    return gamma / np.sqrt(var + eps) * through, (dy * y).sum(axes), dy.sum(axes)
