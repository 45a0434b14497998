"""Group and instance norm against batch normalization's oracle, sample by sample and group by group."""

import numpy as np
import pytest
from zoo import EPS32, HARD, THREADS, hard, parameters, same_bits

import bnfast
from bnfast import reference

# (shape, axis, groups)
CASES = [
    ((3, 6, 5, 7), 1, 3),
    ((3, 6, 5, 7), 1, 6),
    ((3, 6, 5, 7), 1, 1),
    ((3, 5, 7, 6), -1, 3),
    ((3, 5, 7, 6), -1, 6),
    ((3, 5, 7, 6), -1, 1),
    ((4, 24), 1, 4),
    ((2, 5, 12, 3), 2, 4),
    ((2, 256, 9, 9), 1, 2),
    ((2, 9, 9, 256), 3, 2),
    ((1, 40, 33, 65), 1, 8),
    ((1, 33, 65, 40), -1, 8),
    ((9, 1, 8), 1, 1),
    ((9, 8, 1), 2, 1),
    ((2, 3, 200, 201), 1, 3),
    ((5, 100, 110, 48), -1, 16),
]
# those whose gradients are worked out a group, not a channel, at a time
SMALL_MAPS = [((33, 64, 3, 3), 1, 4), ((9, 40, 5, 5), 1, 2), ((4, 96, 7, 7), 1, 1), ((70, 12, 2, 3), 1, 1)]


def rows(a, axis, groups):
    """(samples * groups, the values of one statistic) and the shape to come back from."""
    first = np.moveaxis(a, axis, 1)
    return np.ascontiguousarray(first.reshape(a.shape[0] * groups, -1)), first.shape


def back(a, shape, axis):
    return np.moveaxis(a.reshape(shape), 1, axis)


def spread(vector, shape, axis):
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return np.broadcast_to(np.asarray(vector, np.float64).reshape(view), shape)


def forward(x, gamma, beta, axis, groups, **options):
    if groups == x.shape[axis]:
        return bnfast.instance_norm(x, gamma, beta, axis=axis, **options)
    return bnfast.group_norm(x, groups, gamma, beta, axis=axis, **options)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(("shape", "axis", "groups"), CASES + SMALL_MAPS)
def test_forward_keeps_the_bound(name, shape, axis, groups):
    x = hard(name, shape, axis)
    gamma, beta = parameters(shape[axis])
    y, moments = forward(x, gamma, beta, axis, groups)
    flat, first = rows(x, axis, groups)
    xhat, mean, var = reference.batch_norm(flat, axis=0)
    xhat = back(xhat, first, axis)
    gamma, beta = spread(gamma, shape, axis), spread(beta, shape, axis)
    bound = 4 * EPS32 * (abs(gamma) * (1 + abs(xhat)) + abs(beta))
    assert (abs(y - (xhat * gamma + beta)) <= bound).all()
    assert moments.mean.shape == (shape[0], groups)
    assert (abs(moments.mean.reshape(-1) - mean) <= EPS32 * np.sqrt(var + 1e-5)).all()
    assert (abs(moments.var.reshape(-1) - var) <= EPS32 * (var + 1e-5)).all()


@pytest.mark.parametrize("name", ["mean 0", "mean 1e4", "mean 1e6", "scale 1e30"])
@pytest.mark.parametrize(("shape", "axis", "groups"), CASES + SMALL_MAPS)
def test_gradients_keep_the_bound(name, shape, axis, groups):
    x, dy = hard(name, shape, axis), hard("mean 0", shape, axis, seed=2)
    gamma, _ = parameters(shape[axis])
    _, moments = forward(x, gamma, None, axis, groups)
    dx, dgamma, dbeta = bnfast.group_norm_backward(dy, x, moments, gamma, axis=axis)
    flat, first = rows(x, axis, groups)
    weighted, _ = rows(dy.astype(float) * spread(gamma, shape, axis), axis, groups)
    exact, _, _ = reference.batch_norm_backward(weighted, flat, axis=0)
    xhat, _, var = reference.batch_norm(flat, axis=0)
    through = abs((weighted * xhat).mean(1, keepdims=True))
    terms = abs(weighted) + abs(weighted.mean(1, keepdims=True)) + (1 + abs(xhat)) * through
    terms = terms / np.sqrt(var + 1e-5)[:, None]
    assert (abs(dx - back(exact, first, axis)) <= 8 * EPS32 * back(terms, first, axis)).all()
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    xhat = back(xhat, first, axis)
    assert (abs(dgamma - (dy * xhat).sum(others)) <= EPS32 * (abs(dy) * (1 + abs(xhat))).sum(others)).all()
    assert (abs(dbeta - dy.astype(float).sum(others)) <= EPS32 * abs(dy).astype(float).sum(others)).all()


@pytest.mark.parametrize(("shape", "axis", "groups"), CASES + SMALL_MAPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_any_thread_count_and_in_place(shape, axis, groups, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(dtype) * 3 + 1 for _ in range(2))
    gamma, beta = parameters(shape[axis])
    results = []
    for threads in THREADS:
        y, moments = forward(x, gamma, beta, axis, groups, num_threads=threads)
        results.append(
            [y, moments.mean, *bnfast.group_norm_backward(dy, x, moments, gamma, axis=axis, num_threads=threads)]
        )
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))
    own = x.copy()
    assert forward(own, gamma, beta, axis, groups, out=own)[0] is own
    assert same_bits(own, results[0][0])
    own = dy.copy()
    assert bnfast.group_norm_backward(own, x, moments, gamma, axis=axis, out=own)[0] is own
    assert same_bits(own, results[0][2])


@pytest.mark.parametrize(("shape", "axis", "groups"), CASES + SMALL_MAPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_and_residual_are_the_same_as_after_it(shape, axis, groups, dtype):
    rng = np.random.default_rng(0)
    x, residual, dy = (rng.standard_normal(shape).astype(dtype) * 2 + 1 for _ in range(3))
    gamma, beta = parameters(shape[axis])
    plain, moments = forward(x, gamma, beta, axis, groups)
    for add, activation in ((None, "relu"), (residual, None), (residual, "relu")):
        want = plain if add is None else plain + add
        want = np.where(want < 0, dtype(0), want) if activation else want
        for threads in THREADS:
            fused = dict(activation=activation, residual=add, num_threads=threads)
            y, again = forward(x, gamma, beta, axis, groups, **fused)
            assert same_bits(y, want)
            assert same_bits(again.m2, moments.m2)
        if not activation:
            continue
        shut = np.where(y > 0, dy, dtype(0))
        exact = bnfast.group_norm_backward(shut, x, moments, gamma, axis=axis)
        for threads in THREADS:
            options = dict(axis=axis, activation="relu", num_threads=threads)
            if add is None:
                dx, *sums = bnfast.group_norm_backward(dy, x, moments, gamma, beta=beta, **options)
            else:
                dx, *sums, dresidual = bnfast.group_norm_backward(dy, x, moments, gamma, y=y, **options)
                assert same_bits(dresidual, shut)
                assert same_bits(dx, exact[0])
            for a, b in zip(sums, exact[1:], strict=True):
                if (shape, axis, groups) in SMALL_MAPS and add is None:  # in another order
                    np.testing.assert_allclose(a, b, rtol=2 * np.finfo(a.dtype).eps, atol=1e-16 * x.size)
                else:
                    assert same_bits(a, b)
            var = rows(np.zeros(shape), axis, groups)[0] + moments.var.reshape(-1, 1)
            weight = abs(spread(gamma, shape, axis))
            if (shape, axis, groups) in SMALL_MAPS:  # two ways of rounding what all channels of a group add to it
                weight = weight.max()
            scale = weight / np.sqrt(back(var, np.moveaxis(x, axis, 1).shape, axis) + 1e-5)
            assert (abs(dx - exact[0]) <= 4 * np.finfo(dtype).eps * scale * (1 + abs(dy))).all()
    own = residual.copy()
    assert forward(x, gamma, beta, axis, groups, residual=own, activation="relu", out=own)[0] is own
    assert same_bits(own, y)


def test_central_differences():
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((2, 2, 4, 3))
    gamma, beta = rng.standard_normal((2, 4))
    _, moments = bnfast.group_norm(x, 2, gamma, beta)
    gradients = bnfast.group_norm_backward(weight, x, moments, gamma)

    def loss():
        return float((bnfast.group_norm(x, 2, gamma, beta)[0] * weight).sum())

    for array, gradient in zip((x, gamma, beta), gradients, strict=True):
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + 1e-5
            above = loss()
            array[i] = kept - 1e-5
            assert abs(gradient[i] - (above - loss()) / 2e-5) < 1e-7
            array[i] = kept


def test_no_samples():
    y, moments = bnfast.group_norm(np.ones((0, 4, 3), np.float32), 2)
    assert y.shape == (0, 4, 3)
    dx, dgamma, dbeta = bnfast.group_norm_backward(y, y, moments)
    assert dx.shape == y.shape
    assert not dgamma.any()
    assert dbeta.shape == (4,)


X = np.ones((2, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bnfast.group_norm(X, 3), ValueError, "groups: got 3, wants a divisor of 4"),
        (lambda: bnfast.group_norm(X, 0), ValueError, "groups: got 0"),
        (lambda: bnfast.group_norm(X, 1.5), TypeError, "groups: got 1.5"),
        (lambda: bnfast.group_norm(X, None), TypeError, "groups: got None"),
        (lambda: bnfast.group_norm(X, 2, axis=-3), ValueError, "axis: got -3"),
        (lambda: bnfast.group_norm(X, 2, axis=0), ValueError, "axis: got 0"),
        (lambda: bnfast.instance_norm(X[:, :, :1]), ValueError, "x: got one value a statistic"),
        (lambda: bnfast.group_norm(X, 2, gamma=[1, 2]), ValueError, "gamma: got shape"),
        (lambda: bnfast.group_norm(X, 2, activation="gelu"), ValueError, "activation: got 'gelu'"),
        (lambda: bnfast.instance_norm(X, residual=X[:1]), ValueError, "residual: got shape"),
        (lambda: bnfast.group_norm_backward(X, X, bnfast.group_norm(X, 2)[1], y=X), ValueError, "y: got an array"),
        (lambda: bnfast.group_norm_backward(X, X, bnfast.moments(X)), TypeError, "moments: got"),
        (lambda: bnfast.group_norm_backward(X, X, None), TypeError, "moments: got None"),
        (lambda: bnfast.group_norm_backward(X, X, bnfast.layer_norm(X[0, 0])[1]), TypeError, "moments: got Moments"),
        (lambda: bnfast.instance_norm_backward(X, X, bnfast.group_norm(X, 2)[1]), ValueError, "moments: got"),
        (lambda: bnfast.group_norm_backward(X[:1], X[:1], bnfast.group_norm(X, 2)[1]), ValueError, "moments: got"),
        (lambda: bnfast.group_norm_backward(None, X, bnfast.group_norm(X, 2)[1]), TypeError, "dy: got None"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def test_what_stands_for_an_integer():
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    y, moments = bnfast.group_norm(x, 2)
    assert np.array_equal(bnfast.group_norm(x, Index(2), axis=Index(1))[0], y)
    dx, _, _ = bnfast.group_norm_backward(x, x, moments)
    assert np.array_equal(bnfast.group_norm_backward(x, x, moments, axis=Index(-2))[0], dx)


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_no_channels(groups):
    """Nothing to normalize, whatever number of groups it makes none of."""
    x = np.empty((2, 0, 4), np.float32)
    y, moments = bnfast.group_norm(x, groups)
    assert y.shape == x.shape
    assert moments.mean.shape == (2, groups)
    assert not moments.mean.any()
    assert not moments.m2.any()
    dx, dgamma, dbeta = bnfast.group_norm_backward(x, x, moments)
    assert dx.shape == x.shape
    assert dgamma.size == dbeta.size == 0
