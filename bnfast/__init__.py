"""bnfast: batch normalization for NumPy arrays on CPUs.

>>> import numpy as np
>>> import bnfast
>>> x = np.random.default_rng(0).standard_normal((8, 3, 32, 32), dtype=np.float32)
>>> bn = bnfast.BatchNorm(3)
>>> y = bn(x)
>>> y.shape, bool(abs(y.mean()) < 1e-6), round(float(y.std()), 3)
((8, 3, 32, 32), True, 1.0)
"""

try:
    from ._kernels import run as _run  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "bnfast._kernels":
        raise
    raise ImportError("bnfast is not built here; in its source tree, run: pip install -e .") from error

from ._config import get_include, get_num_threads, release_memory, set_num_threads, set_recycled_memory, show_config
from ._groups import group_norm, group_norm_backward, instance_norm, instance_norm_backward
from ._layers import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from ._moments import Moments
from .functional import batch_norm, batch_norm_backward, fold_batch_norm, moments, normalize, normalize_backward
from .modules import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__version__ = "0.1.0"

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
