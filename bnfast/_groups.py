"""Group and instance norm: each sample has statistics of its own, each shared by the channels of a group."""

from __future__ import annotations

import math

from . import _geometry as geometry
from . import _kernels as kernels
from ._moments import Moments
from .functional import _documented


@_documented
def group_norm(
    x, groups, gamma=None, beta=None, *, axis=1, eps=1e-5, activation=None, residual=None, out=None, num_threads=None
):
    """Normalize each group of channels of each sample by its own mean and variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the biased variance over the channels of a group and all axes
    but 0 and `axis`. Wu & He (2018), "Group Normalization", arXiv:1803.08494.

    Parameters
    ----------
    {x}
        Axis 0 are the samples.
    groups : int
        Number of groups, which divides C.
    {gamma}
    {beta}
    {axis}
        Not 0. No layout is transposed or copied.
    {eps}
    {fused}
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.
    moments : Moments
        The statistics, float64, mean and m2 of shape (N, groups): what group_norm_backward takes.

    Raises
    ------
    {errors}
        Also if there is one value a statistic, whose variance means nothing. No samples give an empty result.

    Notes
    -----
    Accurate to the bound of batch_norm, with the same bits for any number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]], np.float32)
    >>> y, moments = bnfast.group_norm(x, 2)
    >>> y.round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    >>> moments.mean
    array([[ 2., 20.]])
    """
    if groups is None:  # which means one for each channel below
        raise TypeError("groups: got None, wants an integer")
    return _forward(x, groups, gamma, beta, axis, eps, activation, residual, out, num_threads)


@_documented
def instance_norm(
    x, gamma=None, beta=None, *, axis=1, eps=1e-5, activation=None, residual=None, out=None, num_threads=None
):
    """Normalize each channel of each sample by its own mean and variance.

    A group norm with a group for each channel. Ulyanov, Vedaldi & Lempitsky (2016), "Instance Normalization",
    arXiv:1607.08022.

    Parameters
    ----------
    {x}
        Axis 0 are the samples.
    {gamma}
    {beta}
    {axis}
        Not 0. No layout is transposed or copied.
    {eps}
    {fused}
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.
    moments : Moments
        The statistics, float64, mean and m2 of shape (N, C): what instance_norm_backward takes.

    Raises
    ------
    {errors}
        Also if there is one value a statistic.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> y, moments = bnfast.instance_norm(np.array([[[1.0, 3.0], [10.0, 30.0]]]), beta=[0, 7])
    >>> y.round(3)
    array([[[-1.,  1.],
            [ 6.,  8.]]])
    """
    return _forward(x, None, gamma, beta, axis, eps, activation, residual, out, num_threads)


@_documented
def group_norm_backward(
    dy, x, moments, gamma=None, *, axis=1, eps=1e-5, beta=None, activation=None, y=None, out=None, num_threads=None
):
    """The gradients of group_norm.

    Its formula (Wu & He 2018, arXiv:1803.08494) by the chain rule, as Ioffe & Szegedy (2015) have it for a batch.
    With g = dy * gamma, xhat = (x - mean) / sqrt(var + eps) and means over each statistic's values:
    dx = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps); dbeta = sum(dy) and dgamma = sum(dy * xhat) over all
    axes but `axis`.

    Parameters
    ----------
    {dy}
    {x}
        The same data that the forward pass was given.
    moments : Moments
        What it returned for x; their shape (N, groups) tells the number of groups.
    {gamma}
    {axis}
    {eps}
    {fused_back}
    {back}
    {dgamma}

    Raises
    ------
    {errors}
        Also if moments do not belong to an x of this shape.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 2.0, 6.0, 9.0]])
    >>> y, moments = bnfast.group_norm(x, 2)
    >>> dx, dgamma, dbeta = bnfast.group_norm_backward(np.ones_like(x), x, moments)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([1., 1., 1., 1.]))
    """
    return _backward(dy, x, moments, False, gamma, axis, eps, beta, activation, y, out, num_threads)


@_documented
def instance_norm_backward(
    dy, x, moments, gamma=None, *, axis=1, eps=1e-5, beta=None, activation=None, y=None, out=None, num_threads=None
):
    """The gradients of instance_norm: those of group_norm with a group for each channel (see group_norm_backward).

    Parameters
    ----------
    {dy}
    {x}
        The same data that the forward pass was given.
    moments : Moments
        What it returned for x, of shape (N, C).
    {gamma}
    {axis}
    {eps}
    {fused_back}
    {back}
    {dgamma}

    Raises
    ------
    {errors}
        Also if moments do not belong to an x of this shape.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[[1.0, 2.0, 6.0], [3.0, 5.0, 4.0]]])
    >>> y, moments = bnfast.instance_norm(x)
    >>> dx, dgamma, dbeta = bnfast.instance_norm_backward(np.ones_like(x), x, moments)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([3., 3.]))
    """
    return _backward(dy, x, moments, True, gamma, axis, eps, beta, activation, y, out, num_threads)


def _backward(dy, x, moments, each_channel, gamma, axis, eps, beta, activation, y, out, num_threads):
    """each_channel: a group for each; else the moments tell their number."""
    if not isinstance(moments, Moments) or moments.mean.ndim != 2:
        raise TypeError(f"moments: got {moments!r}, wants the Moments that group_norm or instance_norm returned")
    if dy is None:
        raise TypeError("dy: got None, wants an array like x")
    op, norm = kernels.BACKWARD, kernels.GROUP
    mean, m2 = moments.mean, moments.m2
    groups = None if each_channel else mean.shape[1]
    done = kernels.run_if_ready(
        op,
        moments,
        x,
        axis,
        dy,
        out,
        gamma,
        beta,
        mean,
        m2,
        eps,
        num_threads,
        activation,
        None,
        y,
        None,
        norm,
        groups,
    )
    if done is not None:
        return done
    relu = geometry.is_relu(activation)
    _, x, dy, target, dx, gamma, beta, _, _, eps, threads = geometry.prepare(
        x, axis, dy, out, gamma, beta, mean, m2, eps, num_threads
    )
    groups, view, count = _plan(x.shape, axis, groups)
    moments._belong_to((x.shape[0], groups), count)
    y, dresidual = geometry.gated(y, relu, x, dy, target)
    dgamma, dbeta = kernels.run(
        op,
        view,
        x,
        target,
        dx,
        eps,
        threads,
        norm=norm,
        samples=x.shape[0],
        groups=groups,
        dy=dy,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=m2,
        relu=relu,
        y=y,
        dresidual=dresidual,
    )
    return (dx, dgamma, dbeta) if dresidual is None else (dx, dgamma, dbeta, dresidual)


def _forward(x, groups, gamma, beta, axis, eps, activation, residual, out, num_threads):
    """groups: None for each channel."""
    op, norm = kernels.FORWARD, kernels.GROUP
    done = kernels.run_if_ready(
        op,
        Moments,
        x,
        axis,
        None,
        out,
        gamma,
        beta,
        None,
        None,
        eps,
        num_threads,
        activation,
        residual,
        None,
        None,
        norm,
        groups,
    )
    if done is not None:
        return done
    _, x, _, target, y, gamma, beta, _, _, eps, threads = geometry.prepare(
        x, axis, None, out, gamma, beta, None, None, eps, num_threads
    )
    relu, residual = geometry.is_relu(activation), geometry.addend(residual, x, target)
    groups, view, count = _plan(x.shape, axis, groups)
    mean, m2 = kernels.run(
        op,
        view,
        x,
        target,
        y,
        eps,
        threads,
        norm=norm,
        samples=x.shape[0],
        groups=groups,
        gamma=gamma,
        beta=beta,
        relu=relu,
        residual=residual,
    )
    return y, Moments._of(count, mean, m2)


def _plan(shape, axis, groups):
    """(groups, (outer, channels, inner) of one sample, values a statistic). groups: None for each channel."""
    axis = geometry.integer("axis", axis)
    if axis % len(shape) == 0:
        raise ValueError(f"axis: got {axis}, wants the channel axis; axis 0 are the samples")
    axis %= len(shape)
    channels = shape[axis]
    groups = channels if groups is None else geometry.divisor(groups, channels)
    outer, inner = math.prod(shape[1:axis]), math.prod(shape[axis + 1 :])
    count = outer * inner * (channels // max(groups, 1))
    if count == 1 and shape[0]:
        raise ValueError(f"x: got one value a statistic (shape {shape}, {groups} groups), wants at least 2")
    return groups, (outer, channels, inner), count
