"""The one statistic: what a forward pass returns, a backward pass takes, and workers exchange."""

from __future__ import annotations

import numpy as np

from . import _geometry as geometry
from ._kernels import Fields, any_negative, merge

_new = Fields.__new__
_MOST = 1 << 63  # values: what the kernels count with


class Moments(Fields):
    """Count, mean and summed squared deviation of each channel.

    Parameters
    ----------
    count : int
        How many values each channel has.
    mean : array_like, shape (C,)
        Their mean, in the units of the data. Kept as float64. (Those that group_norm returns have shape (N, groups);
        those of layer_norm and rms_norm the shape of x without the axes they go over.)
    m2 : array_like, shape (C,)
        The sum of their squared distances from the mean. Kept as float64.

    Raises
    ------
    TypeError
        If count is no integer, or mean or m2 are not real numbers.
    ValueError
        If count or a value of m2 is negative, or mean and m2 are not of one shape (C,).

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
    >>> m = bnfast.moments(x)
    >>> m
    Moments(count=6, mean=[5. 6.], var=[11.66666667 11.66666667])
    >>> halves = bnfast.moments(x[:3]).merge(bnfast.moments(x[3:]))
    >>> bool(np.allclose(halves.var, m.var))
    True
    """

    __slots__ = ()

    def __init__(self, count, mean, m2):
        count = geometry.integer("count", count)
        if not 0 <= count < _MOST:
            raise ValueError(f"count: got {count}, wants 0 to 2**63 - 1")
        mean = np.array(geometry.reals("mean", mean), np.float64)
        m2 = np.array(geometry.reals("m2", m2), np.float64)
        if mean.ndim != 1 or mean.shape != m2.shape:
            raise ValueError(f"m2: got shape {m2.shape} beside mean's {mean.shape}, wants two of one (C,)")
        if any_negative(m2):
            raise ValueError(f"m2: got {np.nanmin(m2)}, wants 0 or more")
        self._set(count, mean, m2)

    def _belong_to(self, shape, count):
        """Refuses moments that are not of the x that a backward pass has: `shape` statistics, each of count values."""
        if not self.mean.shape == self.m2.shape == shape or self.count != count:
            raise ValueError(
                f"moments: got {self.mean.shape} statistics of {self.count} values, wants {shape} of {count}, as x has"
            )

    @classmethod
    def _of(cls, count, mean, m2):
        """From float64 arrays that are ours to keep: no check, no copy."""
        self = _new(cls)
        self._set(count, mean, m2)
        return self

    @property
    def var(self):
        """Biased variance, m2 / count, which normalizes; NaN where count is 0."""
        return self._over(self.count)

    @property
    def var_unbiased(self):
        """Unbiased variance, m2 / (count - 1), Bessel's; NaN where count is below 2."""
        return self._over(self.count - 1)

    def _over(self, count):
        return self.m2 / count if count > 0 else np.full_like(self.m2, np.nan)

    def merge(self, other):
        """The moments of both sets of values together.

        Chan, Golub & LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample variances".

        Parameters
        ----------
        other : Moments
            Of as many channels, or of the same shape.

        Returns
        -------
        Moments
            A new object; the two are left as they are.

        Raises
        ------
        TypeError, ValueError
            If other is no Moments, or of another shape, or has more values than can be counted.

        Examples
        --------
        >>> from bnfast import Moments
        >>> Moments(1, [0.0], [0.0]).merge(Moments(1, [2.0], [0.0]))
        Moments(count=2, mean=[1.], var=[1.])
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other: got {type(other).__name__}, wants Moments")
        if not self.mean.shape == self.m2.shape == other.mean.shape == other.m2.shape:
            raise ValueError(f"other: got statistics of shape {other.mean.shape}, wants {self.mean.shape}")
        if self.count + other.count >= _MOST:
            raise ValueError(f"other: got {other.count} values beside {self.count}, wants at most 2**63 - 1 in all")
        mean, m2 = self.mean.copy(), self.m2.copy()
        merge(self.count, mean, m2, other.count, other.mean, other.m2)
        return Moments._of(self.count + other.count, mean, m2)

    def __repr__(self):
        return f"Moments(count={self.count}, mean={self.mean}, var={self.var})"
