"""Thin classes: parameters, running averages, what backward needs, and nothing else of their own."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Mapping

import numpy as np

from . import _geometry as geometry
from . import functional as F
from ._groups import group_norm, group_norm_backward
from ._kernels import blend, pair, shared
from ._layers import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward

_SHARED = {
    "eps": """eps : float
        Added to the variance inside the square root; above 0.""",
    "affine": """scale, shift : bool
        Whether there is a gamma, a beta; without it the attribute is None.
    dtype : dtype
        Of gamma and beta: float32 or float64. Data of the half types go with float32.""",
    "axis": F.SHARED["axis"],
    "activation": """activation : None or "relu"
        "relu": y = max(y, 0), in the same sweep, after the residual if a call has one.""",
    "gradients": """dgamma, dbeta : ndarray of the shape of gamma and beta, or None
        Their gradients, from the last backward(): float32, or float64 if the data were.""",
    "mode": """training : bool
        The mode, which changes nothing here; train() and eval() set it, so that containers can call them.""",
    "x": """x : ndarray
            The data: float16, bfloat16, float32 or float64. Kept by reference for backward().""",
    "out": """out : ndarray, optional
            Where the result goes, of the shape and dtype of x. If it shares memory with x, or with a mask, backward()
            has nothing left to work from and says so.""",
    "residual": """residual : ndarray, optional
            Added before the activation, of the shape and dtype of x; out may be it. If there is an activation, the
            result is then kept by reference too: leave it as it is until backward(), which returns (dx, dresidual).""",
    "returns": """num_threads : int, optional
            Threads for this call.

        Returns
        -------
        ndarray
            Of the shape and dtype of x; `out` if that was given.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; nothing has been written and no statistic changed.""",
    "errors": """TypeError, ValueError
        If an argument does not fit; the message names it.""",
}


_documented = F.documented(_SHARED)


_MOST = 1 << 59  # float64 in an array that NumPy can describe, whatever the memory


def _size(name, value):
    value = geometry.integer(name, value)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{name}: got {value}, wants 0 to 2**59")
    return value


def _overwrites(out, arrays):
    """Does out share memory with one of them, those there are?"""
    if out is not None:
        for array in arrays:
            if array is not None and shared(out, array):
                return True
    return False


def _real_type(dtype):
    try:
        found = None if dtype is None else np.dtype(dtype)  # which would take None for float64
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype: got {dtype if found is None else found}, wants float32 or float64")
    return found


class _Norm:
    """What all norms have: gamma, beta and their gradients, a mode, and state that can be kept.

    A norm has __call__(x, out, ...), which sets _saved, and _backward(dy, x, saved, out, num_threads) -> (result,
    dgamma, dbeta).
    """

    _shown = ()  # the attributes that repr() tells: the positional arguments, then None, then the others
    _shifts = True  # whether it can have a beta

    def __init__(self, shape, eps, scale, shift, dtype):
        dtype = _real_type(dtype)
        self.eps = geometry.epsilon(eps)
        self.gamma = np.ones(shape, dtype) if scale else None
        self.beta = np.zeros(shape, dtype) if shift else None
        self.dgamma = self.dbeta = None
        self.training = True
        self._lock = threading.Lock()
        self._saved = None  # x, and what else backward needs, of the last call

    def train(self, mode=True):
        """Switch to training mode (or, with False, to evaluation); returns the object."""
        self.training = bool(mode)
        return self

    def eval(self):
        """Switch to evaluation mode; returns the object."""
        return self.train(False)

    def backward(self, dy, out=None, *, num_threads=None):
        """The gradient by x of the last call, given the one by its result; sets dgamma and dbeta.

        Parameters
        ----------
        dy : ndarray
            Of the shape and dtype of x.
        out : ndarray, optional
            Where dx goes; it may be dy itself. If it shares memory with what was kept of the last call, as x is, there
            is nothing left for a second backward().
        num_threads : int, optional
            Threads for this call.

        Returns
        -------
        ndarray
            dx; or, after a call with a residual, the tuple (dx, dresidual), whose second is dy itself if there is no
            activation. In the mode of the last call: through the batch's statistics, or with frozen running averages.

        Raises
        ------
        RuntimeError
            If there was no call yet, or x, or another array that was kept of it, has been overwritten by it or by
            backward().
        TypeError, ValueError
            If an argument does not fit.
        """
        if self._saved is None:
            raise RuntimeError(
                "backward: no x to work from; call the object first, with an out that is neither x nor mask"
            )
        x, saved = self._saved
        result, dgamma, dbeta = self._backward(dy, x, saved, out, num_threads)
        if _overwrites(out, self._kept(x, saved)):
            self._saved = None
        self.dgamma = None if self.gamma is None else dgamma
        self.dbeta = None if self.beta is None else dbeta
        return result

    def _kept(self, x, saved):
        """The arrays of others that backward() works from, some of them None."""
        return (x,)

    def state_dict(self):
        """Copies of all that is learned, by name: gamma and beta, those there are, and a BatchNorm's running_mean,
        running_var and num_batches_tracked."""
        return {name: np.array(value) for name in ("gamma", "beta") if (value := getattr(self, name)) is not None}

    def load_state_dict(self, state):
        """Take over what state_dict() returned: new arrays take the place of those that are there.

        Parameters
        ----------
        state : mapping
            With exactly the names that state_dict() has here.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or a value does not fit; the object is then unchanged.
        """
        wanted = self.state_dict()
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, wants a mapping of {sorted(wanted)}")
        if set(state) != set(wanted):
            raise ValueError(f"state: got {sorted(map(str, state))}, wants {sorted(wanted)}")
        new = {name: self._fitting(name, state[name], old) for name, old in wanted.items()}
        with self._lock:
            self._take(new)

    def _fitting(self, name, value, old):
        """A value of load_state_dict, checked and copied."""
        dtype = np.result_type(old, np.float32)  # it may have been set to integers
        return np.array(geometry.statistic(name, value, old.shape, "for each element"), dtype)

    def _take(self, new):
        for name, value in new.items():
            setattr(self, name, value)

    def save(self, file):
        """Write state_dict() to a file in NumPy's .npz format, which load() reads.

        Parameters
        ----------
        file : path or binary file object
            Of a path, as it is written, either the whole new file is left or the one that was there, whose permissions
            the new one takes over.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if hasattr(file, "write"):
            np.savez(file, **self.state_dict())
            return
        path = os.path.realpath(file)  # of a link, the file is replaced that it leads to
        new = f"{os.fsdecode(path)}.{os.getpid()}-{threading.get_ident()}.new"
        with open(new, "xb") as stream:
            try:
                if os.path.exists(path):
                    os.fchmod(stream.fileno(), stat.S_IMODE(os.stat(path).st_mode))
                np.savez(stream, **self.state_dict())
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(new, path)
            except BaseException:
                os.remove(new)
                raise

    def load(self, file):
        """Take over what save() wrote. Nothing in the file is executed.

        Parameters
        ----------
        file : path or binary file object
            What save() was given.

        Raises
        ------
        ValueError
            If it is truncated or not what save() wrote, or its names or sizes are not those of this object; the message
            names it, and the object is unchanged.
        OSError
            If it cannot be opened.
        """
        if not hasattr(file, "read"):
            with open(file, "rb") as stream:
                return self.load(stream)
        try:
            with np.load(file, allow_pickle=False) as archive:
                self.load_state_dict({name: archive[name] for name in archive.files})
        except MemoryError:
            raise
        except Exception as error:  # of many kinds: whatever a broken archive makes its readers stumble over
            raise ValueError(f"{getattr(file, 'name', file)}: not a state of {self!r} ({error})") from error

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_saved")}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), _saved=None)

    def __repr__(self):
        split = self._shown.index(None)
        words = [repr(getattr(self, name)) for name in self._shown[:split]]
        words += [f"{name}={getattr(self, name)!r}" for name in self._shown[split + 1 :]]
        words += [f"scale={self.gamma is not None}"] + [f"shift={self.beta is not None}"] * self._shifts
        return f"{type(self).__name__}({', '.join(words)})"


class _ChannelNorm(_Norm):
    """Those with a channel axis, and a ReLU and a residual in the sweep.

    A norm is _normalize(x, residual, mask, out, num_threads) -> (y, statistics) and _gradients(dy, x, statistics, y,
    mask, out, num_threads), what the function returns; only a batch norm's mask is ever there. All options are spelled
    out and passed on by position: a dict of them costs 0.2 us on its way down and 0.5 us where it is made.
    """

    def __init__(self, channels, axis, eps, activation, scale, shift, dtype):
        self.channels = _size("channels", channels)
        self.axis = geometry.integer("axis", axis)
        geometry.is_relu(activation)
        self.activation = activation
        super().__init__(self.channels, eps, scale, shift, dtype)

    @_documented
    def __call__(self, x, out=None, *, residual=None, num_threads=None):
        """Normalize x, of any rank from 2 up, with C along the channel axis.

        Parameters
        ----------
        {x}
        {out}
        {residual}
        {returns}
        """
        return self._call(x, residual, None, out, num_threads)

    def _call(self, x, residual, mask, out, num_threads):
        told = self.beta if self.gamma is None else self.gamma
        if getattr(told, "shape", None) != (self.channels,):  # else what x has beside it will tell
            self._fits(x)
        try:
            y, statistics = self._normalize(x, residual, mask, out, num_threads)
        except ValueError:
            self._fits(x)  # with other channels, that is what is wrong, and not gamma
            raise
        added = residual is not None
        if _overwrites(out, (x, mask)):
            self._saved = None
        else:
            self._saved = x, (statistics, y if added and self.activation else None, added, mask)
        return y

    def _fits(self, x):
        channels = geometry.view(geometry.as_array("x", x).shape, self.axis)[1]
        if channels != self.channels:
            raise ValueError(f"x: got {channels} channels, wants {self.channels}") from None

    def _kept(self, x, saved):
        _, y, _, mask = saved
        return x, y, mask

    def _backward(self, dy, x, saved, out, num_threads):
        statistics, y, added, mask = saved
        if added and y is None:
            # Without an activation the residual's gradient is dy, and must not be what dx is written over.
            dy = geometry.twin("dy", dy, geometry.array("x", x))
            dresidual = dy.copy() if out is not None and shared(out, dy) else dy
            if mask is not None:
                axis = self.axis % dy.ndim
                counts = np.broadcast_to(mask, dy.shape[:axis] + dy.shape[axis + 1 :])
                dresidual = np.where(np.expand_dims(counts, axis), dy, dy.dtype.type(0))
        dx, dgamma, dbeta, *gated = self._gradients(dy, x, statistics, y, mask, out, num_threads)
        if added:
            dx = dx, gated[0] if gated else dresidual
        return dx, dgamma, dbeta


@_documented
class BatchNorm(_ChannelNorm):
    """Batch normalization with parameters and running averages.

    In training mode a call normalizes by the batch's own statistics and updates the running averages; in evaluation
    mode it normalizes by the running averages. Ioffe & Szegedy (2015), arXiv:1502.03167.

    Parameters
    ----------
    channels : int
        Size of the channel axis, C.
    {axis}
        Any axis works.
    {eps}
    momentum : float or None
        Weight of the old running value, in [0, 1]: running = momentum * running + (1 - momentum) * batch, as in Keras,
        Flax and ONNX. PyTorch's momentum is the weight of the new value: its 0.1 is this 0.9.
        None: the plain average of all batches.
    unbiased : bool
        Running variance from the unbiased batch variance (n - 1; the paper, PyTorch), else from the biased one
        (Keras, Flax, ONNX). Normalization always uses the biased one.
    {activation}
    {affine}

    Attributes
    ----------
    gamma, beta : ndarray of shape (C,), or None
        Scale and shift, yours to train.
    {gradients}
    running_mean, running_var : ndarray of shape (C,), float64
        The running averages. An update puts new arrays here, both in one step.
    num_batches_tracked : int
        How many batches they have seen.
    training : bool
        The mode; train() and eval() set it.

    Raises
    ------
    {errors}

    Notes
    -----
    One object may be called from several threads: the running update is one locked step, which loses no batch and
    never shows the mean of one update with the variance of another. What backward() needs is kept from the last call,
    by reference, until the next call, in evaluation too: give each thread an object of its own to train through, and do
    not change x or gamma before backward(), nor, with an activation, beta, by which it finds again where that shut.

    One value a channel is a ValueError in training; an empty batch gives an empty result and changes nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> bn = bnfast.BatchNorm(2)
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> bn(x).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> bn.running_mean, bn.running_var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    >>> dx = bn.backward(np.ones_like(x))
    >>> bn.dbeta
    array([2., 2.], dtype=float32)
    >>> bn.eval()(x).shape
    (2, 2)
    """

    _shown = ("channels", None, "axis", "eps", "momentum", "unbiased", "activation")

    def __init__(
        self,
        channels,
        *,
        axis=1,
        eps=1e-5,
        momentum=0.9,
        unbiased=True,
        activation=None,
        scale=True,
        shift=True,
        dtype="float32",
    ):
        super().__init__(channels, axis, eps, activation, scale, shift, dtype)
        self.momentum = momentum
        self.unbiased = bool(unbiased)
        self._running = (np.zeros(self.channels), np.ones(self.channels), 0)  # mean, var, batches: replaced as one

    # The three are one value: whoever reads self._running once has a matching set.

    @property
    def momentum(self):
        return self._momentum

    @momentum.setter
    def momentum(self, momentum):
        if momentum is not None:
            momentum = geometry.real("momentum", momentum, "0 to 1, or None")
            if not 0 <= momentum <= 1:
                raise ValueError(f"momentum: got {momentum}, wants 0 to 1, or None")
        self._momentum = momentum

    @property
    def running_mean(self):
        return self._running[0]

    @property
    def running_var(self):
        return self._running[1]

    @property
    def num_batches_tracked(self):
        return self._running[2]

    @_documented
    def __call__(self, x, out=None, *, residual=None, mask=None, num_threads=None):
        """Normalize x, of any rank from 2 up, with C along the channel axis.

        Parameters
        ----------
        {x}
        {out}
        {residual}
        mask : ndarray of bool, optional
            False where a position does not count, as in batch_norm: y is 0 there, and every gradient. A batch in which
            nothing counts changes no running average. Kept by reference for backward().
        {returns}
        """
        return self._call(x, residual, mask, out, num_threads)

    def _normalize(self, x, residual, mask, out, num_threads):
        if self.training:
            running = pair(self.channels, True)  # when memory runs out, nothing has been written
            y, moments = F.batch_norm(
                x,
                self.gamma,
                self.beta,
                axis=self.axis,
                eps=self.eps,
                activation=self.activation,
                residual=residual,
                mask=mask,
                out=out,
                num_threads=num_threads,
            )
            if moments.count:
                with self._lock:
                    self._running = blend(running, self._running, moments, self.momentum, self.unbiased)
            return y, moments
        mean, var, _ = self._running
        y = F.normalize(
            x,
            mean,
            var,
            self.gamma,
            self.beta,
            axis=self.axis,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
            mask=mask,
            out=out,
            num_threads=num_threads,
        )
        return y, (mean, var)

    def _gradients(self, dy, x, statistics, y, mask, out, num_threads):
        if isinstance(statistics, tuple):
            mean, var, moments = *statistics, None
        else:
            mean, var, moments = statistics.mean, statistics.m2, statistics
        return F._backward(
            dy,
            x,
            self.axis,
            self.gamma,
            mean,
            var,
            moments,
            self.eps,
            self.beta,
            self.activation,
            y,
            mask,
            out,
            num_threads,
        )

    def state_dict(self):
        """Copies of gamma, beta (those there are), running_mean, running_var and num_batches_tracked, by name."""
        mean, var, batches = self._running
        running = {"running_mean": mean.copy(), "running_var": var.copy(), "num_batches_tracked": batches}
        return super().state_dict() | running

    def _fitting(self, name, value, old):
        if name == "num_batches_tracked":
            value = geometry.integer(name, value)
            if not 0 <= value < 1 << 63:
                raise ValueError(f"{name}: got {value}, wants 0 to 2**63 - 1")
            return value
        if name == "running_var":
            value = geometry.variance(name, value, self.channels)
        return super()._fitting(name, value, old)

    def _take(self, new):
        self._running = tuple(new.pop(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
        super()._take(new)


@_documented
class GroupNorm(_ChannelNorm):
    """Group normalization with parameters: each group of channels of each sample by its own mean and variance.

    The same in training and evaluation. Wu & He (2018), "Group Normalization", arXiv:1803.08494.

    Parameters
    ----------
    groups : int
        Number of groups, which divides the channels.
    channels : int
        Size of the channel axis, C.
    {axis}
        Not 0: axis 0 are the samples.
    {eps}
    {activation}
    {affine}

    Attributes
    ----------
    gamma, beta : ndarray of shape (C,), or None
        Scale and shift, yours to train.
    {gradients}
    {mode}

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> gn = bnfast.GroupNorm(2, 4)
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]], np.float32)
    >>> gn(x).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    >>> dx = gn.backward(np.ones_like(x))
    >>> gn.dgamma.round(3)
    array([-1.,  1., -1.,  1.], dtype=float32)
    """

    _shown = ("groups", "channels", None, "axis", "eps", "activation")

    def __init__(self, groups, channels, *, axis=1, eps=1e-5, activation=None, scale=True, shift=True, dtype="float32"):
        super().__init__(channels, axis, eps, activation, scale, shift, dtype)
        self.groups = geometry.divisor(groups, self.channels)

    def _normalize(self, x, residual, mask, out, num_threads):
        return group_norm(
            x,
            self.groups,
            self.gamma,
            self.beta,
            axis=self.axis,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
            out=out,
            num_threads=num_threads,
        )

    def _gradients(self, dy, x, statistics, y, mask, out, num_threads):
        return group_norm_backward(
            dy,
            x,
            statistics,
            self.gamma,
            axis=self.axis,
            eps=self.eps,
            beta=self.beta,
            activation=self.activation,
            y=y,
            out=out,
            num_threads=num_threads,
        )


@_documented
class InstanceNorm(GroupNorm):
    """Instance normalization with parameters: each channel of each sample by its own mean and variance.

    The same in training and evaluation: there are no running averages. Ulyanov, Vedaldi & Lempitsky (2016), "Instance
    Normalization", arXiv:1607.08022.

    Parameters
    ----------
    channels : int
        Size of the channel axis, C.
    {axis}
        Not 0: axis 0 are the samples.
    {eps}
    {activation}
    {affine}
        (scale and shift default to True as in the other classes here; PyTorch's InstanceNorm has affine=False.)

    Attributes
    ----------
    gamma, beta : ndarray of shape (C,), or None
        Scale and shift, yours to train.
    {gradients}
    {mode}

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> bnfast.InstanceNorm(2)(np.array([[[1.0, 3.0], [10.0, 30.0]]])).round(3)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """

    _shown = ("channels", None, "axis", "eps", "activation")

    def __init__(self, channels, *, axis=1, eps=1e-5, activation=None, scale=True, shift=True, dtype="float32"):
        super().__init__(
            channels, channels, axis=axis, eps=eps, activation=activation, scale=scale, shift=shift, dtype=dtype
        )


class _RowNorm(_Norm):
    """Those that normalize rows of one or several trailing axes: by _forward(x, out, num_threads) -> (y, saved)."""

    _shown = ("shape", None, "eps")

    def __init__(self, shape, eps, scale, shift, dtype):
        shape = shape if np.iterable(shape) else (shape,)
        self.shape = tuple(_size("shape", size) for size in shape)
        if not 1 <= len(self.shape) <= 64 or math.prod(max(size, 1) for size in self.shape) > _MOST:
            raise ValueError(f"shape: got {self.shape}, wants 1 to 64 sizes, of 2**59 values at most")
        self._axes = -1 if len(self.shape) == 1 else tuple(range(-len(self.shape), 0))
        super().__init__(self.shape, eps, scale, shift, dtype)

    @_documented
    def __call__(self, x, out=None, *, num_threads=None):
        """Normalize x.

        Parameters
        ----------
        {x}
        {out}
        {returns}
        """
        y, saved = self._forward(x, out, num_threads)
        self._saved = None if _overwrites(out, (x,)) else (x, saved)
        return y

    def _fits(self, x):
        shape = geometry.as_array("x", x).shape
        if shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"x: got shape {shape}, wants one that ends with {self.shape}")
        return x


@_documented
class LayerNorm(_RowNorm):
    """Layer normalization with parameters: each row of trailing axes by its own mean and variance.

    The same in training and evaluation. Ba, Kiros & Hinton (2016), "Layer Normalization", arXiv:1607.06450.

    Parameters
    ----------
    shape : int or tuple of int
        Sizes of the trailing axes to normalize over.
    {eps}
    {affine}

    Attributes
    ----------
    gamma, beta : ndarray of that shape, or None
        Scale and shift, yours to train.
    {gradients}
    {mode}

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> ln = bnfast.LayerNorm(2)
    >>> x = np.array([[1, 3], [10, 30]], np.float32)
    >>> ln(x).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    >>> dx = ln.backward(np.ones_like(x))
    >>> ln.dbeta
    array([2., 2.], dtype=float32)
    """

    def __init__(self, shape, *, eps=1e-5, scale=True, shift=True, dtype="float32"):
        super().__init__(shape, eps, scale, shift, dtype)

    def _forward(self, x, out, num_threads):
        x, axes = self._fits(x), self._axes
        return layer_norm(x, self.gamma, self.beta, axes=axes, eps=self.eps, out=out, num_threads=num_threads)

    def _backward(self, dy, x, saved, out, num_threads):
        axes = self._axes
        return layer_norm_backward(dy, x, saved, self.gamma, axes=axes, eps=self.eps, out=out, num_threads=num_threads)


@_documented
class RMSNorm(_RowNorm):
    """RMS normalization with a scale: each row of trailing axes by the root of its mean square.

    The same in training and evaluation. Zhang & Sennrich (2019), "Root Mean Square Layer Normalization",
    arXiv:1910.07467.

    Parameters
    ----------
    shape : int or tuple of int
        Sizes of the trailing axes to normalize over.
    {eps}
    scale : bool
        Whether there is a gamma; without it the attribute is None.
    dtype : dtype
        Of gamma: float32 or float64. Data of the half types go with float32.

    Attributes
    ----------
    gamma : ndarray of that shape, or None
        Scale, yours to train. (beta and dbeta are None.)
    dgamma : ndarray of the shape of gamma, or None
        Its gradient, from the last backward(): float32, or float64 if the data were.
    {mode}

    Raises
    ------
    {errors}

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> rms = bnfast.RMSNorm(2)
    >>> x = np.array([[1, 7]], np.float32)
    >>> rms(x).round(3)
    array([[0.2, 1.4]], dtype=float32)
    >>> dx = rms.backward(np.ones_like(x))
    >>> rms.dgamma.round(3)
    array([0.2, 1.4], dtype=float32)
    """

    _shifts = False

    def __init__(self, shape, *, eps=1e-5, scale=True, dtype="float32"):
        super().__init__(shape, eps, scale, False, dtype)

    def _forward(self, x, out, num_threads):
        return rms_norm(self._fits(x), self.gamma, axes=self._axes, eps=self.eps, out=out, num_threads=num_threads)

    def _backward(self, dy, x, saved, out, num_threads):
        dx, dgamma = rms_norm_backward(
            dy, x, saved, self.gamma, axes=self._axes, eps=self.eps, out=out, num_threads=num_threads
        )
        return dx, dgamma, None
