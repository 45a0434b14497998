"""Folding a batch norm into the layer before it equals running both."""

import numpy as np
import pytest
from zoo import EPS32

import bnfast
from bnfast import reference


def layer(weight, bias, x):
    """A 1x1 convolution of (N, in, H, W), in float64."""
    y = np.einsum("oi,nihw->nohw", weight.astype(float), x.astype(float))
    return y if bias is None else y + bias.astype(float)[:, None, None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_running_both(dtype, with_bias, affine, transposed):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((4, 5, 3, 3)).astype(dtype), rng.standard_normal((7, 5)).astype(dtype)
    bias = rng.standard_normal(7).astype(dtype) if with_bias else None
    bn = bnfast.BatchNorm(7, scale=affine, shift=affine, eps=1e-3, dtype=dtype)
    for _ in range(3):
        bn(rng.standard_normal((8, 7)).astype(dtype) * 3 + 2)
    if affine:
        bn.gamma[:], bn.beta[:] = rng.standard_normal((2, 7))
    given = weight.T if transposed else weight
    kept = given.copy()
    folded, shift = bnfast.fold_batch_norm(given, bias, bn, axis=int(transposed))
    assert folded.shape == given.shape
    assert folded.dtype == shift.dtype == dtype
    assert (given == kept).all()
    exact = reference.normalize(
        layer(weight, bias, x),
        bn.running_mean,
        bn.running_var,
        1.0 if bn.gamma is None else bn.gamma,
        0.0 if bn.beta is None else bn.beta,
        eps=1e-3,
    )
    got = layer(folded.T if transposed else folded, shift, x)
    np.testing.assert_allclose(got, exact, rtol=0, atol=40 * (EPS32 if dtype == np.float32 else 2.3e-16))
    pairs = bnfast.fold_batch_norm(
        given, bias, (bn.running_mean, bn.running_var, bn.gamma, bn.beta), axis=int(transposed), eps=1e-3
    )
    assert all((a == b).all() for a, b in zip(pairs, (folded, shift), strict=True))


def test_one_channel():
    weight, bias = bnfast.fold_batch_norm(np.ones((1, 3)), None, ([2.0], [3.0]), eps=1.0)
    assert (weight == 0.5).all()
    assert bias.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 3)), None, 7), TypeError, "statistics: got 7"),
        ((np.ones((2, 3)), None, (np.zeros(2),)), ValueError, "statistics: got 1 vectors"),
        ((np.ones((2, 3)), np.ones(3), (np.zeros(2), np.ones(2))), ValueError, "bias: got shape"),
        ((np.ones((2, 3)), None, (np.zeros(2), -np.ones(2))), ValueError, "var: got a negative variance"),
        ((np.ones(2), None, (np.zeros(2), np.ones(2))), ValueError, "axis: got 0 for a weight of shape"),
        ((np.ones((2, 3), int), None, (np.zeros(2), np.ones(2))), TypeError, "weight: got dtype int64"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        bnfast.fold_batch_norm(*arguments)
