"""Thin classes: parameters and running averages, and nothing else of their own."""

from __future__ import annotations

import operator
import threading

import numpy as np

from . import functional as F
from ._kernels import blend


class BatchNorm:
    """Batch normalization with parameters and running averages.

    In training mode a call normalizes by the batch's own statistics and updates the running averages; in evaluation
    mode it normalizes by the running averages. Ioffe & Szegedy (2015), arXiv:1502.03167.

    Parameters
    ----------
    channels : int
        Size of the channel axis, C.
    axis : int
        The channel axis: 1 is NCHW (also NC, NCL, NCDHW), -1 is NHWC; any axis works.
    eps : float
        Added to the variance inside the square root; above 0.
    momentum : float or None
        Weight of the old running value, in [0, 1]: running = momentum * running + (1 - momentum) * batch, as in Keras,
        Flax and ONNX. PyTorch's momentum is the weight of the new value: its 0.1 is this 0.9.
        None: the plain average of all batches.
    unbiased : bool
        Running variance from the unbiased batch variance (n - 1; the paper, PyTorch), else from the biased one
        (Keras, Flax, ONNX). Normalization always uses the biased one.
    scale, shift : bool
        Whether there is a gamma, a beta; without it the attribute is None.
    dtype : dtype
        Of gamma and beta: float32 or float64.

    Attributes
    ----------
    gamma, beta : ndarray of shape (C,), or None
        Scale and shift, yours to train.
    dgamma, dbeta : ndarray of shape (C,), or None
        Their gradients, from the last backward().
    running_mean, running_var : ndarray of shape (C,), float64
        The running averages. An update puts new arrays here, both in one step.
    num_batches_tracked : int
        How many batches they have seen.
    training : bool
        The mode; train() and eval() set it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Notes
    -----
    One object may be called from several threads: the running update is one locked step, which loses no batch and
    never shows the mean of one update with the variance of another. What backward() needs is kept from the last call,
    by reference: give each thread an object of its own to train through, and do not change x before backward().

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

    def __init__(
        self, channels, *, axis=1, eps=1e-5, momentum=0.9, unbiased=True, scale=True, shift=True, dtype="float32"
    ):
        try:
            self.channels = operator.index(channels)
            self.axis = operator.index(axis)
        except TypeError:
            raise TypeError(f"channels, axis: got {channels!r} and {axis!r}, want integers") from None
        if self.channels < 0:
            raise ValueError(f"channels: got {channels}, wants 0 or more")
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype: got {dtype}, wants float32 or float64")
        if momentum is not None:
            try:
                momentum = float(momentum)
            except (TypeError, ValueError):
                raise TypeError(f"momentum: got {momentum!r}, wants 0 to 1, or None") from None
            if not 0 <= momentum <= 1:
                raise ValueError(f"momentum: got {momentum}, wants 0 to 1, or None")
        self.eps = F.geometry.epsilon(eps)
        self.momentum = momentum
        self.unbiased = bool(unbiased)
        self.gamma = np.ones(self.channels, dtype) if scale else None
        self.beta = np.zeros(self.channels, dtype) if shift else None
        self.dgamma = self.dbeta = None
        self.training = True
        self._running = (np.zeros(self.channels), np.ones(self.channels), 0)  # mean, var, batches: replaced as one
        self._lock = threading.Lock()
        self._saved = None  # (x, Moments) or (x, (mean, var)) of the last call, for backward

    # The three are one value: whoever reads self._running once has a matching set.

    @property
    def running_mean(self):
        return self._running[0]

    @property
    def running_var(self):
        return self._running[1]

    @property
    def num_batches_tracked(self):
        return self._running[2]

    def train(self, mode=True):
        """Switch to training mode (or, with False, to evaluation); returns the object."""
        self.training = bool(mode)
        return self

    def eval(self):
        """Switch to evaluation mode; returns the object."""
        return self.train(False)

    def __call__(self, x, out=None, *, num_threads=None):
        """Normalize x, of any rank from 2 up, with C along the channel axis.

        Parameters
        ----------
        x : ndarray
            The data, float32 or float64. Kept by reference for backward().
        out : ndarray, optional
            Where the result goes, of the shape and dtype of x. If it shares memory with x, backward() has nothing left
            to work from and says so.
        num_threads : int, optional
            Threads for this call.

        Returns
        -------
        ndarray
            Of the shape and dtype of x; `out` if that was given.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; nothing has been written and no statistic changed.
        """
        if self.gamma is None and self.beta is None and self.training:  # else they, or the averages, will tell
            channels = F.geometry.view(np.shape(x), self.axis)[1]
            if channels != self.channels:
                raise ValueError(f"x: got {channels} channels, wants {self.channels}")
        if self.training:
            y, moments = F.batch_norm(
                x, self.gamma, self.beta, axis=self.axis, eps=self.eps, out=out, num_threads=num_threads
            )
            if moments.count:
                self._update(moments)
            saved = moments
        else:
            mean, var, _ = self._running
            y = F.normalize(
                x, mean, var, self.gamma, self.beta, axis=self.axis, eps=self.eps, out=out, num_threads=num_threads
            )
            saved = mean, var
        self._saved = None if out is not None and F.geometry.shared(out, x) else (x, saved)
        return y

    def _update(self, moments):
        divisor = moments.count - 1 if self.unbiased else moments.count
        with self._lock:
            old_mean, old_var, batches = self._running
            batches += 1
            keep = 1 - 1 / batches if self.momentum is None else self.momentum
            self._running = *blend(old_mean, old_var, moments.mean, moments.m2, divisor, keep), batches

    def backward(self, dy, out=None, *, num_threads=None):
        """The gradient by x of the last call, given the one by its result; sets dgamma and dbeta.

        Parameters
        ----------
        dy : ndarray
            Of the shape and dtype of x.
        out : ndarray, optional
            Where dx goes; it may be dy itself.
        num_threads : int, optional
            Threads for this call.

        Returns
        -------
        ndarray
            dx. In the mode of the last call: through the batch's statistics, or with frozen running averages.

        Raises
        ------
        RuntimeError
            If there was no call yet, or it overwrote x.
        TypeError, ValueError
            If an argument does not fit.
        """
        if self._saved is None:
            raise RuntimeError("backward: no x to work from; call the object first, with an out that is not x")
        x, saved = self._saved
        common = dict(axis=self.axis, eps=self.eps, out=out, num_threads=num_threads)
        if isinstance(saved, tuple):
            dx, dgamma, dbeta = F.normalize_backward(dy, x, *saved, self.gamma, **common)
        else:
            dx, dgamma, dbeta = F.batch_norm_backward(dy, x, saved, self.gamma, **common)
        self.dgamma = None if self.gamma is None else dgamma
        self.dbeta = None if self.beta is None else dbeta
        return dx

    def state_dict(self):
        """Copies of gamma, beta (those there are), running_mean, running_var and num_batches_tracked, by name."""
        mean, var, batches = self._running
        state = {"gamma": self.gamma, "beta": self.beta, "running_mean": mean, "running_var": var}
        state = {name: np.array(value) for name, value in state.items() if value is not None}
        state["num_batches_tracked"] = batches
        return state

    def load_state_dict(self, state):
        """Take over what state_dict() returned.

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
        if set(state) != set(wanted):
            raise ValueError(f"state: got {sorted(state)}, wants {sorted(wanted)}")
        new = {}
        for name, old in wanted.items():
            if name == "num_batches_tracked":
                new[name] = operator.index(state[name])
                if new[name] < 0:
                    raise ValueError(f"state: got num_batches_tracked {new[name]}, wants 0 or more")
            else:
                check = F.geometry.variance if name == "running_var" else F.geometry.statistic
                new[name] = np.array(check(name, state[name], self.channels), old.dtype)
        with self._lock:
            for name in ("gamma", "beta"):
                if name in new:
                    setattr(self, name, new[name])
            self._running = new["running_mean"], new["running_var"], new["num_batches_tracked"]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_saved")}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), _saved=None)

    def __repr__(self):
        return (
            f"BatchNorm({self.channels}, axis={self.axis}, eps={self.eps}, momentum={self.momentum}, "
            f"unbiased={self.unbiased}, scale={self.gamma is not None}, shift={self.beta is not None})"
        )
