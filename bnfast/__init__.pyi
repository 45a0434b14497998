from collections.abc import Mapping, Sequence
from os import PathLike
from typing import IO, Any, Literal, Self, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__version__: str
__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Moments",
    "RMSNorm",
    "batch_norm",
    "batch_norm_backward",
    "fold_batch_norm",
    "get_include",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "normalize",
    "normalize_backward",
    "release_memory",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "set_recycled_memory",
    "show_config",
]

# bfloat16 is a type of ml_dtypes, which need not be there: to a type checker its arrays are of Any.
_Floats: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64] | NDArray[Any]
_Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

class Moments:
    @property
    def count(self) -> int: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def m2(self) -> NDArray[np.float64]: ...
    def __init__(self, count: SupportsIndex, mean: ArrayLike, m2: ArrayLike) -> None: ...
    @property
    def var(self) -> NDArray[np.float64]: ...
    @property
    def var_unbiased(self) -> NDArray[np.float64]: ...
    def merge(self, other: Moments) -> Moments: ...

def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    activation: Literal["relu"] | None = None,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, Moments]: ...
def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    activation: Literal["relu"] | None = None,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Floats: ...
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    moments: Moments,
    gamma: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    beta: ArrayLike | None = None,
    activation: Literal["relu"] | None = None,
    y: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, ...]: ...
def normalize_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    beta: ArrayLike | None = None,
    activation: Literal["relu"] | None = None,
    y: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, ...]: ...
def moments(
    x: ArrayLike, *, axis: SupportsIndex = 1, mask: ArrayLike | None = None, num_threads: SupportsIndex | None = None
) -> Moments: ...
def group_norm(
    x: ArrayLike,
    groups: SupportsIndex,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    activation: Literal["relu"] | None = None,
    residual: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, Moments]: ...
def instance_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    activation: Literal["relu"] | None = None,
    residual: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, Moments]: ...
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    moments: Moments,
    gamma: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    beta: ArrayLike | None = None,
    activation: Literal["relu"] | None = None,
    y: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, ...]: ...
def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    moments: Moments,
    gamma: ArrayLike | None = None,
    *,
    axis: SupportsIndex = 1,
    eps: float = 1e-5,
    beta: ArrayLike | None = None,
    activation: Literal["relu"] | None = None,
    y: ArrayLike | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, ...]: ...
def layer_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axes: _Axes = -1,
    eps: float = 1e-5,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, Moments]: ...
def rms_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    axes: _Axes = -1,
    eps: float = 1e-5,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, Moments]: ...
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    moments: Moments,
    gamma: ArrayLike | None = None,
    *,
    axes: _Axes = -1,
    eps: float = 1e-5,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats, _Floats]: ...
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    moments: Moments,
    gamma: ArrayLike | None = None,
    *,
    axes: _Axes = -1,
    eps: float = 1e-5,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Floats, _Floats]: ...
def fold_batch_norm(
    weight: ArrayLike,
    bias: ArrayLike | None,
    statistics: BatchNorm | Sequence[ArrayLike | None],
    *,
    axis: SupportsIndex = 0,
    eps: float | None = None,
) -> tuple[_Floats, _Floats]: ...

class _Norm:
    eps: float
    gamma: _Floats | None
    beta: _Floats | None
    dgamma: _Floats | None
    dbeta: _Floats | None
    training: bool
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def save(self, file: str | PathLike[str] | IO[bytes]) -> None: ...
    def load(self, file: str | PathLike[str] | IO[bytes]) -> None: ...

class _ChannelNorm(_Norm):
    channels: int
    axis: int
    activation: Literal["relu"] | None
    def __call__(
        self,
        x: ArrayLike,
        out: _Floats | None = None,
        *,
        residual: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> _Floats: ...
    def backward(
        self, dy: ArrayLike, out: _Floats | None = None, *, num_threads: SupportsIndex | None = None
    ) -> Any: ...  # dx, or (dx, dresidual) after a residual

class _RowNorm(_Norm):
    shape: tuple[int, ...]
    def __call__(
        self, x: ArrayLike, out: _Floats | None = None, *, num_threads: SupportsIndex | None = None
    ) -> _Floats: ...
    def backward(
        self, dy: ArrayLike, out: _Floats | None = None, *, num_threads: SupportsIndex | None = None
    ) -> _Floats: ...

class BatchNorm(_ChannelNorm):
    momentum: float | None
    unbiased: bool
    def __init__(
        self,
        channels: SupportsIndex,
        *,
        axis: SupportsIndex = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.9,
        unbiased: bool = True,
        activation: Literal["relu"] | None = None,
        scale: bool = True,
        shift: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None: ...
    def __call__(
        self,
        x: ArrayLike,
        out: _Floats | None = None,
        *,
        residual: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        num_threads: SupportsIndex | None = None,
    ) -> _Floats: ...
    @property
    def running_mean(self) -> NDArray[np.float64]: ...
    @property
    def running_var(self) -> NDArray[np.float64]: ...
    @property
    def num_batches_tracked(self) -> int: ...

class GroupNorm(_ChannelNorm):
    groups: int
    def __init__(
        self,
        groups: SupportsIndex,
        channels: SupportsIndex,
        *,
        axis: SupportsIndex = 1,
        eps: float = 1e-5,
        activation: Literal["relu"] | None = None,
        scale: bool = True,
        shift: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None: ...

class InstanceNorm(GroupNorm):
    def __init__(
        self,
        channels: SupportsIndex,
        *,
        axis: SupportsIndex = 1,
        eps: float = 1e-5,
        activation: Literal["relu"] | None = None,
        scale: bool = True,
        shift: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None: ...

class LayerNorm(_RowNorm):
    def __init__(
        self,
        shape: _Axes,
        *,
        eps: float = 1e-5,
        scale: bool = True,
        shift: bool = True,
        dtype: DTypeLike = "float32",
    ) -> None: ...

class RMSNorm(_RowNorm):
    def __init__(
        self, shape: _Axes, *, eps: float = 1e-5, scale: bool = True, dtype: DTypeLike = "float32"
    ) -> None: ...

def get_include() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(count: SupportsIndex | None) -> None: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def set_recycled_memory(limit: SupportsIndex) -> None: ...
def release_memory() -> None: ...
