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


def _mean_var(x, axes):
    """(mean, var) over axes, which stay. Two passes, the first taken about an element so that it is exact."""
    first = x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))]
    first = np.where(np.isfinite(first), first, 0)
    mean = first + (x - first).mean(axes, keepdims=True)
    # The mean is rounded; subtracting the square of what that leaves makes the variance right again.
    off = x - mean
    var = (off * off).mean(axes, keepdims=True) - off.mean(axes, keepdims=True) ** 2
    return mean, np.maximum(var, 0)


def moments(x, *, axis=1):
    """(mean, var) of each channel, var biased."""
    x, axes = _prepare(x, axis)
    mean, var = _mean_var(x, axes)
    return mean.reshape(-1), var.reshape(-1)


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


def _rows(x, axes, eps, rms):
    """(xhat, 1 / sqrt(var + eps), the axes of a row, those that rows are counted along)."""
    x = np.asarray(x, np.float64)
    axes = tuple(axis % x.ndim for axis in np.atleast_1d(axes))
    mean, var = (0, (x * x).mean(axes, keepdims=True)) if rms else _mean_var(x, axes)
    inv = 1 / np.sqrt(var + eps)
    return (x - mean) * inv, inv, axes, tuple(i for i in range(x.ndim) if i not in axes)


def layer_norm(x, gamma=1.0, beta=0.0, *, axes=-1, eps=1e-5):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, gamma and beta of the shape of x along axes.

    Ba, Kiros & Hinton (2016), arXiv:1607.06450."""
    return gamma * _rows(x, axes, eps, rms=False)[0] + beta


def rms_norm(x, gamma=1.0, *, axes=-1, eps=1e-5):
    """y = gamma * x / sqrt(mean(x^2) + eps). Zhang & Sennrich (2019), arXiv:1910.07467."""
    return gamma * _rows(x, axes, eps, rms=True)[0]


def layer_norm_backward(dy, x, gamma=1.0, *, axes=-1, eps=1e-5):
    """(dx, dgamma, dbeta) of layer_norm()."""
    xhat, inv, axes, others = _rows(x, axes, eps, rms=False)
    g = np.asarray(dy, np.float64) * gamma
    dx = inv * (g - g.mean(axes, keepdims=True) - xhat * (g * xhat).mean(axes, keepdims=True))
    return dx, (dy * xhat).sum(others), np.asarray(dy, np.float64).sum(others)


def rms_norm_backward(dy, x, gamma=1.0, *, axes=-1, eps=1e-5):
    """(dx, dgamma) of rms_norm()."""
    xhat, inv, axes, others = _rows(x, axes, eps, rms=True)
    g = np.asarray(dy, np.float64) * gamma
    return inv * (g - xhat * (g * xhat).mean(axes, keepdims=True)), (dy * xhat).sum(others)
