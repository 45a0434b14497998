"""Every kernel against the float64 oracle, on hard inputs. Run for each ISA by test_isa.py."""

import numpy as np
import pytest
from zoo import CASES, EPS32, HARD, along, hard, parameters

import bnfast
from bnfast import reference


def worst(error, bound):
    """The largest |error| / bound, where 0/0 is 0."""
    error = np.abs(error)
    assert np.isfinite(error).all()
    return float(np.divide(error, bound, out=np.where(error == 0, 0.0, np.inf), where=bound > 0).max())


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_forward_and_inference_keep_the_bound(name, shape, axis):
    x = hard(name, shape, axis)
    gamma, beta = parameters(shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    exact, mean, var = reference.batch_norm(x, gamma, beta, axis=axis)
    xhat = reference.normalize(x, mean, var, axis=axis)
    bound = 4 * EPS32 * (abs(along(gamma, shape, axis)) * (1 + abs(xhat)) + abs(along(beta, shape, axis)))
    assert worst(y - exact, bound) <= 1
    spread = np.sqrt(var + 1e-5)
    assert worst((moments.mean - mean) / spread, EPS32) <= 1
    assert worst((moments.var - var) / spread**2, EPS32) <= 1
    frozen = bnfast.normalize(x, mean, var, gamma, beta, axis=axis)
    assert worst(frozen - reference.normalize(x, mean, var, gamma, beta, axis=axis), bound) <= 1


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["mean 0", "mean 1e4", "mean 1e6", "scale 1e30", "denormals", "constants"])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_gradients_keep_the_bound(name, shape, axis, frozen):
    x = hard(name, shape, axis)
    dy = hard("mean 0", shape, axis, seed=2)
    gamma, _ = parameters(shape[axis])
    moments = bnfast.moments(x, axis=axis)
    mean, var = reference.moments(x, axis=axis)
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    xhat = reference.normalize(x, mean, var, axis=axis)
    scale = abs(along(gamma, shape, axis)) / np.sqrt(along(var, shape, axis) + 1e-5)
    if frozen:
        got = bnfast.normalize_backward(dy, x, mean, var, gamma, axis=axis)
        exact = reference.normalize_backward(dy, x, mean, var, gamma, axis=axis)
        terms = scale * abs(dy)
    else:
        got = bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis)
        exact = reference.batch_norm_backward(dy, x, gamma, axis=axis)
        through = abs((dy.astype(float) * xhat).mean(axes, keepdims=True))
        terms = scale * (abs(dy) + abs(dy.astype(float).mean(axes, keepdims=True)) + (1 + abs(xhat)) * through)
    assert worst(got[0] - exact[0], 8 * EPS32 * terms) <= 1
    assert worst(got[1] - exact[1], EPS32 * (abs(dy) * (1 + abs(xhat))).sum(axes)) <= 1
    assert worst(got[2] - exact[2], EPS32 * abs(dy).astype(float).sum(axes)) <= 1


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_float64(shape, axis):
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal(shape) * 3 + 5, rng.standard_normal(shape)
    gamma, beta = rng.standard_normal((2, shape[axis]))
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, reference.batch_norm(x, gamma, beta, axis=axis)[0], rtol=1e-12, atol=1e-13)
    for got, exact in zip(
        bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis),
        reference.batch_norm_backward(dy, x, gamma, axis=axis),
        strict=True,
    ):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-11)


def test_float64_far_mean():
    """Quarters at 1e9 are exact, and so are their moments: the result must not lose the digits of the mean."""
    x = 1e9 + np.random.default_rng(0).integers(-8, 8, (16, 3, 5, 5)) / 4
    y, _ = bnfast.batch_norm(x)
    exact, _ = bnfast.batch_norm(x - 1e9)
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.7e8, 1e30, 1e-40, 0.1])
@pytest.mark.parametrize("eps", [1e-5, 1e-100])
def test_a_constant_channel_gives_exactly_beta(dtype, value, eps):
    for shape, axis in CASES:
        gamma, beta = parameters(shape[axis])
        y, moments = bnfast.batch_norm(np.full(shape, value, dtype), gamma, beta, axis=axis, eps=eps)
        assert (y == along(beta, shape, axis)).all()
        assert (moments.mean == dtype(value)).all()
        assert (moments.m2 == 0).all()


@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5), 1), ((3, 5, 4), -1), ((6, 3), 1)])
def test_central_differences(shape, axis):
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, shape[axis]))
    moments = bnfast.moments(x, axis=axis)
    dx, dgamma, dbeta = bnfast.batch_norm_backward(weight, x, moments, gamma, axis=axis)

    def loss():
        return float((bnfast.batch_norm(x, gamma, beta, axis=axis)[0] * weight).sum())

    for array, gradient in ((x, dx), (gamma, dgamma), (beta, dbeta)):
        numeric = np.empty_like(gradient)
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + 1e-5
            above = loss()
            array[i] = kept - 1e-5
            numeric[i] = (above - loss()) / 2e-5
            array[i] = kept
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_the_bound_table():
    """The largest |error| / bound of each hard input, both axes; `pytest -k bound_table -s` shows it."""
    rows = []
    for name in HARD:
        ratios = []
        for shape, axis in (((8, 24, 14, 14), 1), ((8, 14, 14, 24), -1)):
            x, (gamma, beta) = hard(name, shape, axis), parameters(24)
            exact, mean, var = reference.batch_norm(x, gamma, beta, axis=axis)
            xhat = reference.normalize(x, mean, var, axis=axis)
            bound = 4 * EPS32 * (abs(along(gamma, shape, axis)) * (1 + abs(xhat)) + abs(along(beta, shape, axis)))
            ratios.append(worst(bnfast.batch_norm(x, gamma, beta, axis=axis)[0] - exact, bound))
        rows.append((name, *ratios))
    isa = bnfast.show_config("dicts")["isa"]
    print(f"\n|error| / bound, {isa}    axis 1    axis -1")
    for name, first, last in rows:
        print(f"{name:<22}{first:>12.3f}{last:>11.3f}")
    assert max(max(row[1:]) for row in rows) <= 1
