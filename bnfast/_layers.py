"""Layer and RMS norm: each row of trailing axes has a statistic, each of its elements a gamma and a beta."""

from __future__ import annotations

import math

import numpy as np

from . import _geometry as geometry
from . import _kernels as kernels
from ._moments import Moments
from .functional import SHARED, documented

_SHARED = SHARED | {
    "axes": """axes : int or tuple of int
        The axes to normalize over: the last one, or several trailing ones, which gamma and beta have the shape of.""",
    "any_x": SHARED["x"].replace("any rank from 2 up", "any rank from 1 up"),
    "point_gamma": """gamma : array_like, of the shape of x along `axes`, optional
        Scale of each element; absent means 1.""",
    "point_beta": """beta : array_like, of the shape of x along `axes`, optional
        Shift of each element; absent means 0.""",
    "point_moments": """moments : Moments
        What forward returned for x; nothing checks that it was that of the same norm.""",
}
_documented = documented(_SHARED)


@_documented
def layer_norm(x, gamma=None, beta=None, *, axes=-1, eps=1e-5, out=None, num_threads=None):
    """Normalize each row by its own mean and variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the biased variance over `axes`.
    Ba, Kiros & Hinton (2016), "Layer Normalization", arXiv:1607.06450.

    Parameters
    ----------
    {any_x}
    {point_gamma}
    {point_beta}
    {axes}
    {eps}
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.
    moments : Moments
        The statistics, float64, mean and m2 of x's shape without `axes`: what layer_norm_backward takes.

    Raises
    ------
    {errors}

    Notes
    -----
    Accurate to the bound of batch_norm, with the same bits for any number of threads. A row of one element gives beta.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> y, moments = bnfast.layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]]), gamma=[1, 2])
    >>> y.round(3)
    array([[-1.,  2.],
           [-1.,  2.]])
    >>> moments.mean
    array([ 2., 20.])
    """
    return _forward(kernels.LAYER, x, gamma, beta, axes, eps, out, num_threads)


@_documented
def layer_norm_backward(dy, x, moments, gamma=None, *, axes=-1, eps=1e-5, out=None, num_threads=None):
    """The gradients of layer_norm: its formula (Ba, Kiros & Hinton 2016, arXiv:1607.06450) by the chain rule.

    With g = dy * gamma, xhat = (x - mean) / sqrt(var + eps) and means over `axes`:
    dx = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps); dbeta = sum(dy) and dgamma = sum(dy * xhat) over all
    rows.

    Parameters
    ----------
    {dy}
    {any_x}
    {point_moments}
    {point_gamma}
    {axes}
    {eps}
    {back}
    dgamma, dbeta : ndarray, of the shape of x along `axes`
        Gradients by gamma and beta, float32 (float64 if x is).

    Raises
    ------
    {errors}
        Also if moments do not belong to an x of this shape.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 2.0, 6.0]])
    >>> y, moments = bnfast.layer_norm(x)
    >>> dx, dgamma, dbeta = bnfast.layer_norm_backward(np.ones_like(x), x, moments)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([1., 1., 1.]))
    """
    return _backward(kernels.LAYER, dy, x, moments, gamma, axes, eps, out, num_threads)


@_documented
def rms_norm(x, gamma=None, *, axes=-1, eps=1e-5, out=None, num_threads=None):
    """Normalize each row by the root of its mean square.

    y = x / sqrt(mean(x**2) + eps) * gamma. Zhang & Sennrich (2019), "Root Mean Square Layer Normalization",
    arXiv:1910.07467.

    Parameters
    ----------
    {any_x}
    {point_gamma}
    {axes}
    {eps}
        (PyTorch's default is the dtype's epsilon, ONNX's is 1e-5.)
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.
    moments : Moments
        The statistics about zero, float64: mean is 0, m2 the sum of squares, so that var is the mean square.

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> y, moments = bnfast.rms_norm(np.array([[1.0, 7.0]]))
    >>> y.round(3), moments.var
    (array([[0.2, 1.4]]), array([25.]))
    """
    return _forward(kernels.RMS, x, gamma, None, axes, eps, out, num_threads)


@_documented
def rms_norm_backward(dy, x, moments, gamma=None, *, axes=-1, eps=1e-5, out=None, num_threads=None):
    """The gradients of rms_norm: its formula (Zhang & Sennrich 2019, arXiv:1910.07467) by the chain rule.

    With g = dy * gamma, xhat = x / sqrt(mean(x**2) + eps) and means over `axes`:
    dx = (g - xhat * mean(g * xhat)) / sqrt(mean(x**2) + eps); dgamma = sum(dy * xhat) over all rows.

    Parameters
    ----------
    {dy}
    {any_x}
    {point_moments}
    {point_gamma}
    {axes}
    {eps}
    {back}
    dgamma : ndarray, of the shape of x along `axes`
        Gradient by gamma, float32 (float64 if x is).

    Raises
    ------
    {errors}
        Also if moments do not belong to an x of this shape.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 7.0]])
    >>> y, moments = bnfast.rms_norm(x)
    >>> dx, dgamma = bnfast.rms_norm_backward(np.ones_like(x), x, moments)
    >>> dgamma.round(3)
    array([0.2, 1.4])
    """
    return _backward(kernels.RMS, dy, x, moments, gamma, axes, eps, out, num_threads)[:2]


def _forward(norm, x, gamma, beta, axes, eps, out, num_threads):
    op = kernels.FORWARD
    done = kernels.run_if_ready(op, Moments, x, axes, None, out, gamma, beta, None, None, eps, num_threads, norm=norm)
    if done is not None:
        return done
    x, rows, row = _rows(x, axes)
    gamma, beta = _points("gamma", gamma, row), _points("beta", beta, row)
    eps, threads = geometry.epsilon(eps), geometry.thread_count("num_threads", num_threads)
    target, y = geometry.output(out, x, (x,), apart=(gamma, beta))
    count = math.prod(row)
    view = (1, math.prod(rows), count)
    mean, m2 = kernels.run(op, view, x, target, y, eps, threads, norm=norm, gamma=gamma, beta=beta, shape=rows)
    return y, Moments._of(count, mean, m2)


def _backward(norm, dy, x, moments, gamma, axes, eps, out, num_threads):
    if dy is None:
        raise TypeError("dy: got None, wants an array like x")
    if not isinstance(moments, Moments):
        raise TypeError(f"moments: got {type(moments).__name__}, wants the Moments that forward returned")
    op, mean, m2 = kernels.BACKWARD, moments.mean, moments.m2
    done = kernels.run_if_ready(op, moments, x, axes, dy, out, gamma, None, mean, m2, eps, num_threads, norm=norm)
    if done is not None:
        return done
    x, rows, row = _rows(x, axes)
    dy = geometry.twin("dy", dy, x)
    count = math.prod(row)
    moments._belong_to(rows, count)
    gamma = _points("gamma", gamma, row)
    eps, threads = geometry.epsilon(eps), geometry.thread_count("num_threads", num_threads)
    target, dx = geometry.output(out, x, (x, dy), apart=(gamma, mean, m2))
    view = (1, math.prod(rows), count)
    dgamma, dbeta = kernels.run(
        op,
        view,
        x,
        target,
        dx,
        eps,
        threads,
        norm=norm,
        dy=dy,
        gamma=gamma,
        mean=mean,
        var=m2,
        shape=row,
    )
    return dx, dgamma, dbeta


def _rows(x, axes):
    """x as an array, its shape without `axes`, its shape along them."""
    x = geometry.array("x", x)
    rank = x.ndim
    if rank == 0:
        raise ValueError("x: got a scalar, wants at least 1 dimension")
    if type(axes) is int and axes == -1:
        return x, x.shape[:-1], x.shape[-1:]
    each = axes if np.iterable(axes) and not isinstance(axes, str) else (axes,)
    given = [geometry.integer("axes", axis, "an integer or a tuple of them") for axis in each]
    first = rank - len(given)
    if not given or sorted(axis + rank if axis < 0 else axis for axis in given) != [*range(first, rank)]:
        raise ValueError(f"axes: got {axes}, wants the last axis, or several trailing ones, of shape {x.shape}")
    return x, x.shape[:first], x.shape[first:]


def _points(name, value, row):
    """One value for each element of a row; None stays None."""
    return geometry.vector(name, value, row, "for each element along axes")
