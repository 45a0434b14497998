"""All argument checking: from what a caller passes to what the kernels take.

Any array and any channel axis collapse, without a copy, to (outer, channels, inner): NCHW is (N, C, H*W), NHWC is
(N*H*W, C, 1), (B, features) is (B, C, 1). Statistics are over outer and inner.

Every error names the argument, what it got and what it wants, and comes before anything is written.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache

import numpy as np

from . import _memory
from ._kernels import MOST_THREADS, any_negative, overlap, plain, ready, same_start

# By name: bfloat16 is not NumPy's own. The first three are computed in float32, whose values they are.
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def integer(name, value, wants="an integer"):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, wants {wants}") from None


def divisor(groups, channels):
    """The number of groups, which cuts the channels into equal parts; of no channels, whatever it is."""
    groups = integer("groups", groups)
    if not 0 <= groups < 1 << 31 or (channels % groups if groups else channels):
        raise ValueError(f"groups: got {groups}, wants a divisor of {channels}, the number of channels")
    return groups


def real(name, value, wants):
    if type(value) is float:
        return value
    try:
        return float(None if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: got {value!r}, wants {wants}") from None


def view(shape, axis):
    """(outer, channels, inner) of a shape, whose channels lie along `axis`."""
    return _view(shape, axis if type(axis) is int else integer("axis", axis))


@lru_cache(maxsize=1024)
def _view(shape, axis):
    if len(shape) < 2:
        raise ValueError(f"x: got shape {shape}, wants at least 2 dimensions")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis: got {axis}, wants {-len(shape)} to {len(shape) - 1} for shape {shape}")
    index = axis % len(shape)
    outer, channels, inner = math.prod(shape[:index]), shape[index], math.prod(shape[index + 1 :])
    # All of one channel is one run.
    return (1, 1, outer * inner) if channels == 1 and outer * inner else (outer, channels, inner)


def prepare(x, axis, dy, out, gamma, beta, mean, var, eps, num_threads, *, training=False, frozen=False):
    """Everything a kernel takes, checked.

    (view, x, dy, the array to compute into, the one to return, gamma, beta, mean, var, eps, threads).
    training: one value a channel is too few. frozen: mean and var are the caller's, not ours.
    """
    absent = frozen and (mean is None or var is None)
    axes = None if absent else ready(x, axis, dy, out, gamma, beta, mean, var, eps, num_threads)
    if axes:
        out = _memory.output(x) if out is None else out
        return axes, x, dy, out, out, gamma, beta, mean, var, eps, num_threads or 0
    x = array("x", x)
    if dy is not None:
        dy = twin("dy", dy, x)
    axes = view(x.shape, axis)
    channels = axes[1]
    if frozen:
        mean = statistic("mean", mean, channels)
        var = variance("var", var, channels)
    gamma = vector("gamma", gamma, channels)
    beta = vector("beta", beta, channels)
    eps = epsilon(eps)
    threads = thread_count("num_threads", num_threads)
    if training and axes[0] * axes[2] == 1 and channels:
        raise ValueError(f"x: got one value a channel (shape {x.shape}), wants at least 2 to train on")
    target, out = output(out, x, (x, dy, gamma, beta, mean, var))
    return axes, x, dy, target, out, gamma, beta, mean, var, eps, threads


def array(name, value):
    """`value` as a plain ndarray: itself if it is one, else by one copy (other strides, byte order, alignment)."""
    if plain(value):
        return value
    if isinstance(value, np.ma.MaskedArray | np.matrix):
        raise TypeError(f"{name}: got a {type(value).__name__}, wants an ordinary array")
    found = as_array(name, value)
    if found.dtype.name not in _FLOATS:
        raise TypeError(f"{name}: got dtype {found.dtype}, wants float16, bfloat16, float32 or float64")
    return np.require(found, found.dtype.newbyteorder("="), ["C", "A"])


def as_array(name, value):
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, and what foreign arrays make of it
        raise TypeError(f"{name}: got {type(value).__name__}, wants an array ({error})") from None


def twin(name, value, x):
    """Like array(), and of the shape and dtype of x."""
    value = array(name, value)
    if value.shape != x.shape or value.dtype != x.dtype:
        raise ValueError(
            f"{name}: got shape {value.shape} and dtype {value.dtype}, wants those of x, {x.shape} and {x.dtype}"
        )
    return value


def vector(name, value, channels, each="a channel"):
    """One value a channel (or `each` of another number, or shape), float32 (half types are widened) or float64.

    None stays None.
    """
    if value is None:
        return None
    value = reals(name, value)
    shape = channels if isinstance(channels, tuple) else (channels,)
    if value.shape != shape:
        raise ValueError(f"{name}: got shape {value.shape}, wants {shape}, one value {each}")
    return value


def reals(name, value):
    """`value` as a plain ndarray of float32 or float64: itself if it is one."""
    if plain(value) and value.dtype.itemsize >= 4:
        return value
    found = as_array(name, value)
    if not (found.dtype.kind in "fiu" or found.dtype.name in _FLOATS) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {found.dtype} {type(value).__name__}, wants real numbers")
    found = np.require(found, np.float32 if found.dtype.name in _FLOATS[:3] else np.float64, ["C", "A"])
    return np.asarray(found)


def statistic(name, value, channels, each="a channel"):
    """Like vector(), but it must be there."""
    if value is None:
        raise TypeError(f"{name}: got None, wants an array, one value {each}")
    return vector(name, value, channels, each)


def variance(name, value, channels):
    """Like statistic(), and not negative. NaN passes."""
    value = statistic(name, value, channels)
    if any_negative(value):
        raise ValueError(f"{name}: got a negative variance, {np.nanmin(value)}, wants 0 or more")
    return value


def epsilon(eps):
    eps = real("eps", eps, "a number above 0")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps: got {eps}, wants a finite number above 0")
    return eps


def thread_count(name, count):
    """0 for None, which leaves the choice to the library."""
    if count is None:
        return 0
    count = integer(name, count, "a positive integer or None")
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"{name}: got {count}, wants 1 to {MOST_THREADS}, or None")
    return count


def output(out, x, inputs, apart=()):
    """(the array to compute into, the array to return).

    They are one unless `out` has other strides, byte order or alignment, or shares memory with an input without
    starting at x or dy itself, or with one of `apart`: the result is then made apart and copied, so that it is right.
    """
    if out is None:
        y = _memory.output(x)
        return y, y
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray | np.matrix):
        raise TypeError(f"out: got {type(out).__name__}, wants an ndarray")
    if out.shape != x.shape or out.dtype not in (x.dtype, x.dtype.newbyteorder()):
        raise ValueError(f"out: got shape {out.shape} and dtype {out.dtype}, wants {x.shape} and {x.dtype}")
    if not out.flags.writeable:
        raise ValueError("out: got a read-only array, wants a writeable one")
    if not plain(out):
        return _memory.output(x), out
    for given in inputs:
        if given is not None and overlap(out, given) and not (given.shape == out.shape and same_start(out, given)):
            return _memory.output(x), out
    if any(given is not None and overlap(out, given) for given in apart):
        return _memory.output(x), out
    return out, out


def mask(value, x, axis, count, target, *, training=False):
    """(how many of the `count` values of a channel are taken, which: a byte a position, or None for all).

    A copy if `target` would overwrite it. training: one is too few.
    """
    if value is None:
        return count, None
    found = as_array("mask", value)
    if found.dtype != np.bool_ or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"mask: got {found.dtype} {type(value).__name__}, wants an ordinary array of bool")
    positions = list(x.shape)
    del positions[axis]
    try:
        found = np.ascontiguousarray(np.broadcast_to(found, positions)).view(np.uint8)
    except ValueError:
        raise ValueError(
            f"mask: got shape {found.shape}, wants one that broadcasts to {tuple(positions)}, x without its channels"
        ) from None
    count = int(np.count_nonzero(found))
    if training and count == 1 and x.shape[axis]:
        raise ValueError(f"mask: got one True, one value a channel (shape {x.shape}), wants at least 2 to train on")
    return count, found.copy() if target is not None and overlap(found, target) else found


def is_relu(activation):
    if activation is not None and not (isinstance(activation, str) and activation == "relu"):
        raise ValueError(f'activation: got {activation!r}, wants None or "relu"')
    return activation is not None


def addend(residual, x, target):
    """The residual as a twin of x, by a copy if `target` would overwrite it out of step."""
    if residual is None:
        return None
    residual = twin("residual", residual, x)
    return residual.copy() if overlap(residual, target) and not same_start(residual, target) else residual


def gated(y, relu, x, dy, target):
    """(y as a twin of x, an array for the residual's gradient), or two Nones: what backward takes to open the gate by.
    y comes by a copy if `target` would overwrite it out of step."""
    if y is None:
        return None, None
    if not relu:
        raise ValueError("y: got an array, wants None without an activation; the residual's gradient is dy itself")
    y = twin("y", y, x)
    return y.copy() if overlap(y, target) and not same_start(y, target) else y, _memory.output(dy)
