"""The awkward arrays that every kernel meets, and the promises that it is held to."""

import numpy as np

THREADS = (1, 2, 3, 7)
EPS32 = float(np.finfo(np.float32).eps)


def _layouts(n, c, *maps):
    """The same sizes channels first (axis 1) and channels last (axis -1)."""
    return [((n, c, *maps), 1), ((n, *maps, c), -1)]


# (shape, axis): ranks 2 to 5, maps of 1, 2, 4, 7, 9, 49, 63, 64, 65 elements, channels of 1, 3, 15, 16, 17, 200.
CASES = [
    *_layouts(2, 1, 7),
    *_layouts(5, 3, 1, 2),
    *_layouts(3, 15, 7, 7),
    *_layouts(4, 16, 8, 8),
    *_layouts(2, 17, 7, 9),
    *_layouts(3, 200, 5, 13),
    *_layouts(2, 3, 4, 4, 4),
    *_layouts(33, 3, 1),
    *_layouts(70, 64, 7, 7),
    *_layouts(8, 300, 2, 2),
    *_layouts(300, 7, 3, 3),
    *_layouts(1, 1, 300, 333),
    *_layouts(1, 3, 257, 129),
    *_layouts(9, 200, 49),
    *_layouts(2, 2, 40001),
    ((256, 1000), 1),
    ((131, 17), 1),
    ((19, 5, 3, 2), 2),
    ((4, 3, 5, 2), 0),
    ((3, 4, 2, 5, 3), -2),
]


def _spread(rng, shape):
    return rng.standard_normal(shape)


# name -> array of float32 from (rng, shape, axis); what makes float32 formulas fail.
HARD = {
    "mean 0": lambda rng, shape, axis: _spread(rng, shape),
    "mean 1e4": lambda rng, shape, axis: _spread(rng, shape) + 1e4,
    "mean 1e6": lambda rng, shape, axis: _spread(rng, shape) + 1e6,
    "scale 1e30": lambda rng, shape, axis: rng.uniform(-1, 1, shape) * 1e30,
    "1e30 and offset": lambda rng, shape, axis: rng.uniform(-1, 1, shape) * 1e24 + 9e29,
    "denormals": lambda rng, shape, axis: _spread(rng, shape) * 1e-40,
    "constants": lambda rng, shape, axis: np.broadcast_to(_per_channel(rng, shape, axis) * 1e5, shape),
    "first is far": lambda rng, shape, axis: _first_far(rng, shape),
    "mixed scales": lambda rng, shape, axis: _spread(rng, shape) * 10.0 ** rng.integers(-30, 30, shape),
}


def _per_channel(rng, shape, axis):
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return rng.standard_normal(view)


def _first_far(rng, shape):
    x = _spread(rng, shape)
    x[(0,) * len(shape)] = 1e30
    return x


def hard(name, shape, axis, seed=0):
    return HARD[name](np.random.default_rng(seed), shape, axis).astype(np.float32)


def parameters(channels, seed=1):
    """gamma and beta of both signs, float32."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(channels).astype(np.float32), rng.standard_normal(channels).astype(np.float32)


def along(vector, shape, axis):
    """A value a channel, shaped to broadcast against `shape`."""
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return np.asarray(vector, np.float64).reshape(view)


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
