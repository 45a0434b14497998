"""ReLU and residual in the sweep that writes: the same as after it."""

import numpy as np
import pytest
from zoo import CASES, EPS32, THREADS, along, parameters, same_bits

import bnfast

LARGE = [((32, 64, 28, 28), 1), ((32, 28, 28, 64), -1), ((1, 3, 512, 512), 1), ((64, 41, 43, 5), -1)]


def data(shape, dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) * 2 + 1 for _ in range(3)]


def relu(y):
    return np.where(y < 0, y.dtype.type(0), y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_forward(shape, axis, dtype):
    x, residual, _ = data(shape, dtype)
    gamma, beta = parameters(shape[axis])
    plain, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    given = (x, moments.mean, moments.var, gamma, beta)
    for add in (None, residual):
        expected = plain if add is None else plain + add
        for activation in (None, "relu"):
            fused = dict(axis=axis, activation=activation, residual=add)
            want = relu(expected) if activation else expected
            y, again = bnfast.batch_norm(x, gamma, beta, **fused)
            assert same_bits(y, want)
            assert same_bits(again.mean, moments.mean)
            frozen = bnfast.normalize(*given, axis=axis)
            frozen = frozen if add is None else frozen + add
            assert same_bits(bnfast.normalize(*given, **fused), relu(frozen) if activation else frozen)
    own = residual.copy()
    assert bnfast.batch_norm(x, gamma, beta, axis=axis, residual=own, activation="relu", out=own)[0] is own
    assert same_bits(own, relu(plain + residual))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_backward(shape, axis, dtype, frozen):
    x, residual, dy = data(shape, dtype)
    gamma, beta = parameters(shape[axis])
    eps = EPS32 if dtype == np.float32 else 2.0**-52

    def run(dy, moments, **fused):
        if frozen:
            return bnfast.normalize_backward(dy, x, moments.mean, moments.var, gamma, axis=axis, **fused)
        return bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis, **fused)

    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis, activation="relu")
    want = run(np.where(y > 0, dy, dtype(0)), moments)
    got = run(dy, moments, beta=beta, activation="relu")
    scale = abs(along(gamma, shape, axis)) / np.sqrt(along(moments.var, shape, axis) + 1e-5)
    assert len(got) == 3
    assert (abs(got[0] - want[0]) <= 4 * eps * scale * (1 + abs(dy))).all()
    assert all(same_bits(a, b) for a, b in zip(got[1:], want[1:], strict=True))
    for threads in THREADS:
        again = run(dy, moments, beta=beta, activation="relu", num_threads=threads)
        assert all(same_bits(a, b) for a, b in zip(again, got, strict=True))

    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis, activation="relu", residual=residual)
    gated = np.where(y > 0, dy, dtype(0))
    for threads in THREADS:
        *got, dresidual = run(dy, moments, activation="relu", y=y, num_threads=threads)
        assert same_bits(dresidual, gated)
        assert all(same_bits(a, b) for a, b in zip(got, run(gated, moments), strict=True))


X = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bnfast.batch_norm(X, activation="gelu"), "activation: got 'gelu'"),
        (lambda: bnfast.batch_norm(X, residual=X[:2]), "residual: got shape"),
        (lambda: bnfast.batch_norm_backward(X, X, bnfast.moments(X), y=X), "y: got an array"),
        (lambda: bnfast.batch_norm_backward(X, X, bnfast.moments(X), activation="relu", y=X[:2]), "y: got shape"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_out_that_overlaps_the_residual():
    whole = np.random.default_rng(0).standard_normal(13).astype(np.float32)
    x, residual, out = data((4, 3), np.float32)[0], whole[:12].reshape(4, 3), whole[1:].reshape(4, 3)
    want = bnfast.batch_norm(x, residual=residual.copy())[0]
    assert same_bits(bnfast.batch_norm(x, residual=residual, out=out)[0].copy(), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(3, 700), (60, 35), (2100,)])
def test_sums_and_dx_agree_where_the_relu_shut(shape, axis, dtype):
    """To the last bit, also where roundings are larger than what they round: sums compare x with a limit, dx what x
    becomes with 0."""
    rng = np.random.default_rng(0)
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    means = [0, 1, -1e-3, 1e3, -1e8, 1e-30, -1e30, least, -1e4 * least]
    hard = np.meshgrid(means, [1, -3, 0, 1e-9, -1e9, 1e-28], [0, 0.3, -1, 1e-8, -1e8, 1e20, -1e-30])
    mean, gamma, beta = (values.ravel().astype(dtype) for values in hard)
    with np.errstate(all="ignore"):
        begin = np.nan_to_num(np.clip(mean - beta / gamma * np.sqrt(1 + 1e-5), -most, most).astype(dtype))[:, None]
    size = (mean.size, np.prod(shape))
    bits = np.int32 if dtype == np.float32 else np.int64
    close = (begin.view(bits) + rng.integers(-40, 40, size, bits)).view(dtype)
    x = begin + (rng.choice([least, 1e-30, 1e-3, 1, 1e10], size) * rng.standard_normal(size)).astype(dtype)
    x = np.where(np.isfinite(close) & (rng.random(size) < 0.5), close, x)
    x[:, :4] = 0, -most, most, -least
    x = np.ascontiguousarray(np.moveaxis(x.reshape(-1, *shape), 0, axis))
    given = (x, mean, np.ones_like(mean), gamma, beta)
    shut = bnfast.normalize(*given, axis=axis) <= 0
    dx, _, dbeta = bnfast.normalize_backward(np.ones_like(x), *given[:-1], beta=beta, axis=axis, activation="relu")
    np.testing.assert_array_equal(*(np.compress(gamma != 0, a, axis) for a in (dx == 0, shut)))
    np.testing.assert_array_equal(dbeta, (~shut).sum(axis=tuple(i for i in range(x.ndim) if i != axis % x.ndim)))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("inner", [7, 35, 70])
def test_what_is_not_finite_goes_back_through_constants(axis, inner):
    """With mean and var as constants dx is dy times a factor, or 0 where the ReLU shut, whatever x holds; and an Inf
    does not spoil what it is not multiplied with, wherever in its row it lies."""
    for at in range(inner):
        x = np.ones((2, 4, inner), np.float32)
        x[1, :, at] = np.inf, -np.inf, np.nan, 3
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in (x, np.full_like(x, 2)))
        given = dict(mean=np.zeros(4), var=np.ones(4), axis=axis, eps=1e-12)
        dx, dgamma, dbeta = bnfast.normalize_backward(dy, x, **given)
        assert (dx == 2).all()
        np.testing.assert_array_equal(dgamma[[0, 1, 3]], [np.inf, -np.inf, 4 * inner + 4])
        assert np.isnan(dgamma[2])
        np.testing.assert_array_equal(dbeta, np.full(4, 4 * inner))
        dx, _, dbeta = bnfast.normalize_backward(dy, x, **given, activation="relu")
        np.testing.assert_array_equal(dx, np.where(x < 0, 0, 2))
        np.testing.assert_array_equal(dbeta, [4 * inner, 4 * inner - 2, 4 * inner, 4 * inner])
