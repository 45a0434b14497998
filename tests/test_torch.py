"""The same numbers as PyTorch, where it is installed: its operators on the CPU, and autograd for the gradients.

Tolerance: 1e-5 (float32) or 1e-12 (float64) of the largest value of a result, or of 1 if that is larger; PyTorch's own
error is in it. The data have a mean of 1 and a deviation of 2, where PyTorch's formulas do well.
"""

import numpy as np
import pytest

import bnfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
F = torch.nn.functional

DTYPES = [np.float32, np.float64]
# (shape, axis); of rank 4, axis -1 is what PyTorch calls channels_last.
SHAPES = [
    ((16, 5), 1),
    ((6, 5, 9), 1),
    ((3, 8, 7, 9), 1),
    ((3, 7, 9, 8), -1),
    ((2, 64, 28, 28), 1),
    ((2, 28, 28, 64), -1),
    ((2, 6, 3, 4, 5), 1),
    ((2, 3, 4, 5, 6), -1),
]
EPS = 1e-3

on_shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES)
of_dtypes = pytest.mark.parametrize("dtype", DTYPES)
groups_of = [(shape, axis, groups) for shape, axis in SHAPES for groups in (1, 2) if shape[axis] % groups == 0]


def data(shape, channels, dtype):
    """x, dy, gamma, beta."""
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    x, dy, gamma, beta = draw(shape) * 2 + 1, draw(shape), draw(channels), draw(channels)
    return [a.astype(dtype) for a in (x, dy, gamma, beta)]


def tensor(array, axis=1, gradient=False):
    """An array as a tensor with its channels at 1 and the same memory."""
    a = torch.from_numpy(array)
    a = a.movedim(axis, 1) if array.ndim > 1 else a
    return a.detach().requires_grad_(gradient)


def close(got, want, axis=1):
    """Is a result of ours as PyTorch's?"""
    want = want.detach().numpy()
    want = np.moveaxis(want, 1, axis) if want.ndim > 1 else want
    assert got.shape == want.shape
    most = max(1, abs(want).max())
    assert abs(got - want).max() <= (1e-5 if want.dtype == np.float32 else 1e-12) * most


def both_ways(forward, x, dy, vectors, axis):
    """PyTorch's result and the gradients by x and the vectors."""
    leaves = [tensor(x, axis, True), *(tensor(vector, gradient=True) for vector in vectors)]
    y = forward(*leaves)
    return y, *torch.autograd.grad(y, leaves, tensor(dy, axis))


@of_dtypes
@on_shapes
def test_batch_norm(shape, axis, dtype):
    x, dy, gamma, beta = data(shape, shape[axis], dtype)
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis, eps=EPS)
    got = y, *bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis, eps=EPS)

    def forward(x, gamma, beta):
        return F.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma, beta), axis), strict=True):
        close(a, b, axis)


@of_dtypes
@on_shapes
def test_frozen_batch_norm(shape, axis, dtype):
    x, dy, gamma, beta = data(shape, shape[axis], dtype)
    mean, var = beta[::-1].copy(), gamma**2 + dtype(0.5)
    got = (
        bnfast.normalize(x, mean, var, gamma, beta, axis=axis, eps=EPS),
        *bnfast.normalize_backward(dy, x, mean, var, gamma, axis=axis, eps=EPS),
    )

    def forward(x, gamma, beta):
        return F.batch_norm(x, tensor(mean), tensor(var), gamma, beta, training=False, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma, beta), axis), strict=True):
        close(a, b, axis)


@pytest.mark.parametrize("momentum", [0.1, 0.75, None])
@of_dtypes
def test_running_statistics(momentum, dtype):
    """PyTorch's momentum is the weight of the new value."""
    ours = bnfast.BatchNorm(5, momentum=None if momentum is None else 1 - momentum, dtype=dtype)
    theirs = torch.nn.BatchNorm2d(5, momentum=momentum, dtype=tensor(np.zeros(1, dtype)).dtype)
    for seed in range(4):
        x = (np.random.default_rng(seed).standard_normal((3, 5, 6, 4)) * (seed + 1)).astype(dtype)
        close(ours(x), theirs(tensor(x)))
        close(ours.running_mean, theirs.running_mean)
        close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked
    close(ours.eval()(x), theirs.eval()(tensor(x)))
    dy = np.ones_like(x)
    given = tensor(x, gradient=True)
    close(ours.backward(dy), torch.autograd.grad(theirs(given), given, tensor(dy))[0])


def test_a_state_is_taken_over():
    """As README shows it."""
    x = data((6, 5, 9), 5, np.float32)[0]
    theirs, bn = torch.nn.BatchNorm1d(5), bnfast.BatchNorm(5)
    theirs(tensor(x))
    names = {"weight": "gamma", "bias": "beta"}
    bn.load_state_dict({names.get(name, name): value for name, value in theirs.state_dict().items()})
    assert bn.num_batches_tracked == 1
    close(bn.eval()(x), theirs.eval()(tensor(x)))


@of_dtypes
@pytest.mark.parametrize(("shape", "axis", "groups"), groups_of)
def test_group_norm(shape, axis, groups, dtype):
    x, dy, gamma, beta = data(shape, shape[axis], dtype)
    y, moments = bnfast.group_norm(x, groups, gamma, beta, axis=axis, eps=EPS)
    got = y, *bnfast.group_norm_backward(dy, x, moments, gamma, axis=axis, eps=EPS)

    def forward(x, gamma, beta):
        return F.group_norm(x, groups, gamma, beta, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma, beta), axis), strict=True):
        close(a, b, axis)


@of_dtypes
@pytest.mark.parametrize(("shape", "axis"), SHAPES[1:])
def test_instance_norm(shape, axis, dtype):
    x, dy, gamma, beta = data(shape, shape[axis], dtype)
    y, moments = bnfast.instance_norm(x, gamma, beta, axis=axis, eps=EPS)
    got = y, *bnfast.instance_norm_backward(dy, x, moments, gamma, axis=axis, eps=EPS)

    def forward(x, gamma, beta):
        return F.instance_norm(x, weight=gamma, bias=beta, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma, beta), axis), strict=True):
        close(a, b, axis)


POINTS = [((7, 40), 1), ((3, 5, 64), 1), ((3, 5, 6, 7), 2), ((2, 3, 5, 6), 3), ((30, 768), 1), ((2, 999), 2)]


@of_dtypes
@pytest.mark.parametrize(("shape", "count"), POINTS)
def test_layer_norm(shape, count, dtype):
    """Over the last `count` axes."""
    row, axes = shape[-count:], tuple(range(len(shape) - count, len(shape)))
    x, dy, gamma, beta = data(shape, row, dtype)
    y, moments = bnfast.layer_norm(x, gamma, beta, axes=axes, eps=EPS)
    got = y, *bnfast.layer_norm_backward(dy, x, moments, gamma, axes=axes, eps=EPS)

    def forward(x, gamma, beta):
        return F.layer_norm(x, row, gamma, beta, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma, beta), 1), strict=True):
        close(a, b)


@of_dtypes
@pytest.mark.parametrize(("shape", "count"), POINTS)
def test_rms_norm(shape, count, dtype):
    """Over the last `count` axes."""
    row, axes = shape[-count:], tuple(range(len(shape) - count, len(shape)))
    x, dy, gamma, _ = data(shape, row, dtype)
    y, moments = bnfast.rms_norm(x, gamma, axes=axes, eps=EPS)
    got = y, *bnfast.rms_norm_backward(dy, x, moments, gamma, axes=axes, eps=EPS)

    def forward(x, gamma):
        return F.rms_norm(x, row, gamma, eps=EPS)

    for a, b in zip(got, both_ways(forward, x, dy, (gamma,), 1), strict=True):
        close(a, b)
