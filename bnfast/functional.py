"""The functions: arrays in, arrays out, nothing kept."""

from __future__ import annotations

import numpy as np

from . import _geometry as geometry
from . import _kernels as kernels
from ._moments import Moments

SHARED = {
    "back": """{out}
        It may also be dy itself.
    {num_threads}

    Returns
    -------
    {dx}""",
    "x": """x : ndarray of float16, bfloat16, float32 or float64, any rank from 2 up
        The data. A C-contiguous array is used as it is; other strides, byte order or alignment cost one copy. The half
        types (bfloat16 is ml_dtypes') are computed in float32, and the result is rounded once.""",
    "gamma": """gamma : array_like, shape (C,), optional
        Scale of each channel; absent means 1.""",
    "beta": """beta : array_like, shape (C,), optional
        Shift of each channel; absent means 0.""",
    "axis": """axis : int
        The channel axis: 1 is NCHW (also NC, NCL, NCDHW), -1 is NHWC.""",
    "eps": """eps : float
        Added to the variance inside the square root; above 0, in squared units of the data.""",
    "out": """out : ndarray, optional
        Where the result goes: of the shape and dtype of x, and writeable. It may be x itself; any other overlap
        with an input is detected and costs a copy.""",
    "fused": """activation : None or "relu"
        "relu": y = max(y, 0), in the same sweep.
    residual : ndarray, optional
        Added before the activation: y = activation(normalized + residual). Of the shape and dtype of x; out may
        be it.""",
    "dy": """dy : ndarray
        Gradient by y, of the shape and dtype of x.""",
    "dx": """dx : ndarray
        Gradient by x, of its shape and dtype; `out` if that was given.""",
    "dgamma": """dgamma, dbeta : ndarray, shape (C,)
        Gradients by gamma and beta, float32 (float64 if x is).
    dresidual : ndarray
        Only if y was given: gradient by the residual.""",
    "fused_back": """beta : array_like, shape (C,), optional
        Only with an activation: what forward had.
    activation : None or "relu"
        What forward had; nothing checks that. Where it shut is found again from x, which costs no traffic, unless there
        is a y. (In float64, a y that was within one rounding of the mean from 0 may then be taken for the other sign.)
    y : ndarray, optional
        What forward returned, if it added a residual before the activation: its sign then says where the ReLU shut,
        in a sweep that reads dy and y and writes dresidual, which the others then read in place of dy.
        (Without an activation the residual's gradient is dy itself; under a mask, 0 where that is False.)""",
    "mask": """mask : ndarray of bool, optional
        False where a position does not count, for all of its channels: of the shape of x without the channel axis, or
        one that broadcasts to that (NCHW: to (N, H, W)). Whatever the data hold there, NaN and Inf included, has no
        effect.""",
    "num_threads": """num_threads : int, optional
        Threads for this call; absent means what get_num_threads() says. The result has the same bits anyway.""",
    "errors": """TypeError, ValueError
        If an argument does not fit; the message names it, and nothing has been written.""",
}


def documented(shared):
    """A decorator that fills in the paragraphs which docstrings share."""

    def fill(thing):
        for key, text in shared.items() if thing.__doc__ else ():  # python -OO has none
            thing.__doc__ = thing.__doc__.replace("{" + key + "}", text)
        return thing

    return fill


_documented = documented(SHARED)


@_documented
def batch_norm(
    x, gamma=None, beta=None, *, axis=1, eps=1e-5, activation=None, residual=None, mask=None, out=None, num_threads=None
):
    """Normalize each channel by its own mean and variance: the forward pass of training.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the biased variance over all axes but `axis`.
    Ioffe & Szegedy (2015), "Batch Normalization", arXiv:1502.03167, algorithm 1.

    Parameters
    ----------
    {x}
    {gamma}
    {beta}
    {axis}
    {eps}
    {fused}
    {mask}
        y is 0 there, a residual or not. If nothing counts, all of y is, and the moments are of 0 values.
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.
    moments : Moments
        The batch's statistics, float64: what batch_norm_backward and running averages take. Their count is of the
        values that count.

    Raises
    ------
    {errors}
        Also if there is one value a channel, whose variance means nothing. An empty batch gives an empty result.

    Notes
    -----
    For finite float32 input up to 1e30 in magnitude, with gamma / sqrt(var + eps) 0 or a normal float32, y is within
    4*eps32*(abs(gamma)*(1 + abs(xhat)) + abs(beta)) of the exact result, far means included. A constant channel gives
    exactly beta. NaN and Inf stay in their channel.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], np.float32)
    >>> y, moments = bnfast.batch_norm(x, gamma=[1, 2], beta=[0, 5])
    >>> y.round(3)
    array([[-1.,  3.],
           [ 1.,  7.]], dtype=float32)
    >>> moments.mean
    array([ 2., 20.])
    >>> padded = np.array([[1.0], [3.0], [np.nan]])
    >>> bnfast.batch_norm(padded, mask=np.array([True, True, False]))[0].round(3)
    array([[-1.],
           [ 1.],
           [ 0.]])
    """
    op = kernels.FORWARD
    done = kernels.run_if_ready(
        op, Moments, x, axis, None, out, gamma, beta, None, None, eps, num_threads, activation, residual, None, mask
    )
    if done is not None:
        return done
    axes, x, _, target, y, gamma, beta, _, _, eps, threads = geometry.prepare(
        x, axis, None, out, gamma, beta, None, None, eps, num_threads, training=mask is None
    )
    relu, residual = geometry.is_relu(activation), geometry.addend(residual, x, target)
    count, mask = geometry.mask(mask, x, axis, axes[0] * axes[2], target, training=True)
    mean, m2 = kernels.run(
        op, axes, x, target, y, eps, threads, gamma=gamma, beta=beta, relu=relu, residual=residual, mask=mask
    )
    return y, Moments._of(count, mean, m2)


@_documented
def normalize(
    x,
    mean,
    var,
    gamma=None,
    beta=None,
    *,
    axis=1,
    eps=1e-5,
    activation=None,
    residual=None,
    mask=None,
    out=None,
    num_threads=None,
):
    """Normalize each channel by given statistics: inference.

    y = (x - mean) / sqrt(var + eps) * gamma + beta. Ioffe & Szegedy (2015), arXiv:1502.03167, algorithm 2.

    Parameters
    ----------
    {x}
    mean : array_like, shape (C,)
        Mean of each channel.
    var : array_like, shape (C,)
        Variance of each channel, 0 or more. NaN flows through.
    {gamma}
    {beta}
    {axis}
    {eps}
    {fused}
    {mask}
        y is 0 there.
    {out}
    {num_threads}

    Returns
    -------
    y : ndarray
        Of the shape and dtype of x; `out` if that was given.

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], np.float32)
    >>> bnfast.normalize(x, mean=[1, 20], var=[4, 25]).round(3)
    array([[ 0., -2.],
           [ 1.,  2.]], dtype=float32)
    """
    op = kernels.NORMALIZE
    done = kernels.run_if_ready(
        op, None, x, axis, None, out, gamma, beta, mean, var, eps, num_threads, activation, residual, None, mask
    )
    if done is not None:
        return done
    axes, x, _, target, y, gamma, beta, mean, var, eps, threads = geometry.prepare(
        x, axis, None, out, gamma, beta, mean, var, eps, num_threads, frozen=True
    )
    relu, residual = geometry.is_relu(activation), geometry.addend(residual, x, target)
    _, mask = geometry.mask(mask, x, axis, axes[0] * axes[2], target)
    kernels.run(
        op,
        axes,
        x,
        target,
        y,
        eps,
        threads,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        relu=relu,
        residual=residual,
        mask=mask,
    )
    return y


@_documented
def batch_norm_backward(
    dy,
    x,
    moments,
    gamma=None,
    *,
    axis=1,
    eps=1e-5,
    beta=None,
    activation=None,
    y=None,
    mask=None,
    out=None,
    num_threads=None,
):
    """The gradients of batch_norm.

    With xhat = (x - mean) / sqrt(var + eps) and means over all axes but `axis`:
    dbeta = sum(dy), dgamma = sum(dy * xhat),
    dx = gamma / sqrt(var + eps) * (dy - mean(dy) - xhat * mean(dy * xhat)).
    Ioffe & Szegedy (2015), arXiv:1502.03167, section 3.

    Parameters
    ----------
    {dy}
    {x}
        The same data that batch_norm was given.
    moments : Moments
        What batch_norm returned for x.
    {gamma}
    {axis}
    {eps}
    {fused_back}
    {mask}
        The one that forward had. dx is 0 there.
    {back}
    {dgamma}

    Raises
    ------
    {errors}
        Also if moments are of another number of channels or values than x.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, moments = bnfast.batch_norm(x)
    >>> dx, dgamma, dbeta = bnfast.batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, moments)
    >>> bool(abs(dx.sum()) < 1e-12), dbeta
    (True, array([1.]))
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments: got {type(moments).__name__}, wants the Moments that batch_norm returned")
    return _backward(
        dy, x, axis, gamma, moments.mean, moments.m2, moments, eps, beta, activation, y, mask, out, num_threads
    )


@_documented
def normalize_backward(
    dy,
    x,
    mean,
    var,
    gamma=None,
    *,
    axis=1,
    eps=1e-5,
    beta=None,
    activation=None,
    y=None,
    mask=None,
    out=None,
    num_threads=None,
):
    """The gradients of normalize: the statistics are constants (frozen batch normalization).

    dx = dy * gamma / sqrt(var + eps), dgamma = sum(dy * (x - mean)) / sqrt(var + eps), dbeta = sum(dy): what is left
    of Ioffe & Szegedy (2015), section 3, where the statistics do not depend on x.

    Parameters
    ----------
    {dy}
    {x}
    mean : array_like, shape (C,)
        Mean of each channel.
    var : array_like, shape (C,)
        Variance of each channel, 0 or more.
    {gamma}
    {axis}
    {eps}
    {fused_back}
    {mask}
        The one that forward had. dx is 0 there.
    {back}
    {dgamma}

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.array([[1.0], [3.0]])
    >>> dx, dgamma, dbeta = bnfast.normalize_backward(np.ones_like(x), x, mean=[1], var=[4], gamma=[6])
    >>> dx.round(3), dgamma.round(3), dbeta
    (array([[3.],
           [3.]]), array([1.]), array([2.]))
    """
    return _backward(dy, x, axis, gamma, mean, var, None, eps, beta, activation, y, mask, out, num_threads)


def _backward(dy, x, axis, gamma, mean, var, moments, eps, beta, activation, y, mask, out, num_threads):
    """Through the batch's own moments, or, without them, with mean and var as constants."""
    if dy is None:
        raise TypeError("dy: got None, wants an array like x")
    op = kernels.NORMALIZE_BACKWARD if moments is None else kernels.BACKWARD
    done = kernels.run_if_ready(
        op, moments, x, axis, dy, out, gamma, beta, mean, var, eps, num_threads, activation, None, y, mask
    )
    if done is not None:
        return done
    relu = geometry.is_relu(activation)
    axes, x, dy, target, dx, gamma, beta, mean, var, eps, threads = geometry.prepare(
        x, axis, dy, out, gamma, beta, mean, var, eps, num_threads, frozen=moments is None
    )
    outer, channels, inner = axes
    count, mask = geometry.mask(mask, x, axis, outer * inner, target)
    if moments is not None:
        moments._belong_to((channels,), count)
    y, dresidual = geometry.gated(y, relu, x, dy, target)
    dgamma, dbeta = kernels.run(
        op,
        axes,
        x,
        target,
        dx,
        eps,
        threads,
        dy=dy,
        gamma=gamma,
        beta=beta,
        mean=mean,
        var=var,
        relu=relu,
        y=y,
        dresidual=dresidual,
        mask=mask,
    )
    return (dx, dgamma, dbeta) if dresidual is None else (dx, dgamma, dbeta, dresidual)


@_documented
def moments(x, *, axis=1, mask=None, num_threads=None):
    """Count, mean and summed squared deviation of each channel.

    mean = sum(x) / count and m2 = sum((x - mean)**2) over all axes but `axis`, in one pass about an element c of the
    channel: mean = c + s / count and m2 = sum((x - c)**2) - s**2 / count, with s = sum(x - c). Chan, Golub & LeVeque
    (1983), "Algorithms for computing the sample variance".

    Parameters
    ----------
    {x}
    {axis}
    {mask}
    {num_threads}

    Returns
    -------
    Moments
        In float64. A far mean costs no digits; what does, in float64 data, is an element c far from all others: the
        variance loses the factor (mean - c)**2 / variance.

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> bnfast.moments(np.array([[1.0, 5.0], [3.0, 5.0]]))
    Moments(count=2, mean=[2. 5.], var=[1. 0.])
    """
    x = geometry.array("x", x)
    axes = geometry.view(x.shape, axis)
    count, mask = geometry.mask(mask, x, axis, axes[0] * axes[2], None)
    threads = geometry.thread_count("num_threads", num_threads)
    mean, m2 = kernels.run(kernels.MOMENTS, axes, x, None, None, 1.0, threads, mask=mask)
    return Moments._of(count, mean, m2)


def fold_batch_norm(weight, bias, statistics, *, axis=0, eps=None):
    """Fold an inference batch norm into the convolution or linear layer before it.

    weight' = weight * s and bias' = (bias - mean) * s + beta, with s = gamma / sqrt(var + eps) along the output
    channels; then layer'(x) = normalize(layer(x)) up to rounding: the formula of normalize is linear in x.

    Parameters
    ----------
    weight : array_like of float16, bfloat16, float32 or float64
        The layer's weight, with the C output channels along `axis`.
    bias : array_like, shape (C,), optional
        Its bias; None means 0.
    statistics : BatchNorm or tuple
        The batch norm, whose running averages are used (not its activation, which follows the layer), or (mean, var),
        (mean, var, gamma) or (mean, var, gamma, beta), each of shape (C,), gamma and beta None for 1 and 0.
    axis : int
        0 for the weights of convolutions (C, in, ...) and linear layers (C, in); 1 for transposed convolutions.
    eps : float, optional
        As in normalize; absent means the BatchNorm's, or 1e-5.

    Returns
    -------
    weight, bias : ndarray
        New arrays, of weight's shape and (C,), both of weight's dtype; computed in float64 and rounded once
        (to bfloat16 by way of float32).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> weight, bias = bnfast.fold_batch_norm([[1.0, 2.0]], [3.0], ([1.0], [4.0], [6.0], [5.0]), eps=1e-12)
    >>> weight.round(3), bias.round(3)
    (array([[3., 6.]]), array([11.]))
    """
    weight = geometry.array("weight", weight)
    if hasattr(statistics, "running_mean"):
        given = (statistics.running_mean, statistics.running_var, statistics.gamma, statistics.beta)
        eps = statistics.eps if eps is None else eps
    else:
        try:
            given = (*statistics, None, None)
        except TypeError:
            raise TypeError(f"statistics: got {statistics!r}, wants a BatchNorm or (mean, var, gamma, beta)") from None
        if not 4 <= len(given) <= 6:
            raise ValueError(f"statistics: got {len(given) - 2} vectors, wants 2 to 4: mean, var, gamma, beta")
    axis = geometry.integer("axis", axis)
    if not -weight.ndim <= axis < weight.ndim or weight.ndim < 2:
        raise ValueError(f"axis: got {axis} for a weight of shape {weight.shape}, wants one of its 2 or more axes")
    channels = weight.shape[axis]
    mean = geometry.statistic("mean", given[0], channels)
    var = geometry.variance("var", given[1], channels)
    gamma, beta, bias = (
        np.full(channels, absent) if vector is None else geometry.vector(name, vector, channels).astype(np.float64)
        for name, vector, absent in (("gamma", given[2], 1.0), ("beta", given[3], 0.0), ("bias", bias, 0.0))
    )
    scale = gamma / np.sqrt(var.astype(np.float64) + geometry.epsilon(1e-5 if eps is None else eps))
    along = [1] * weight.ndim
    along[axis] = channels
    folded = weight * scale.reshape(along), (bias - mean) * scale + beta
    return folded[0].astype(weight.dtype), folded[1].astype(weight.dtype)
