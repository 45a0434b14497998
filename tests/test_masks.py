"""Masks: what does not count is in no sum, whatever it holds, and gives 0."""

import numpy as np
import pytest
from zoo import CASES, EPS32, THREADS, along, parameters, same_bits

import bnfast
from bnfast import _kernels as kernels
from bnfast import reference

EPS = {np.float32: EPS32, np.float64: 1e-13}  # the oracle sums in float64 too
LARGE = [((16, 64, 28, 28), 1), ((16, 28, 28, 64), -1), ((3, 2, 300, 301), 1), ((3, 300, 301, 2), -1)]


def without_channels(shape, axis):
    return tuple(np.delete(shape, axis))


def random(rng, shape):
    return rng.random(shape) < 0.6


def padded(rng, shape):
    """Along the last axis, lengths of its own for each of the first."""
    lengths = rng.integers(0, shape[-1] + 1, (shape[0], *[1] * (len(shape) - 1)))
    return np.broadcast_to(np.arange(shape[-1]) < lengths, shape)


def few(rng, shape):
    mask = np.zeros(shape, bool)
    mask.flat[[-1, np.prod(shape) // 2]] = True
    return mask


MASKS = [random, padded, few]


def data(shape, axis, kind, dtype, seed=0):
    """(mask, x, dy, residual), with NaN and Inf in x and dy where nothing counts."""
    rng = np.random.default_rng(seed)
    mask = kind(rng, without_channels(shape, axis))
    if mask.sum() < 2:
        mask = few(rng, mask.shape)
    arrays = [(rng.standard_normal(shape) * 2 + 1).astype(dtype) for _ in range(3)]
    for array, value in zip(arrays, (np.nan, np.inf, -np.inf), strict=True):
        np.moveaxis(array, axis, -1)[~mask] = value
    return mask, *arrays


def compressed(x, axis, mask):
    """What counts, as (values, channels)."""
    return np.moveaxis(x, axis, -1)[mask]


def spread(values, shape, axis, mask):
    """The inverse of compressed(), with 0 elsewhere."""
    whole = np.zeros(shape, values.dtype)
    np.moveaxis(whole, axis, -1)[mask] = values
    return whole


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_forward(shape, axis, kind, dtype):
    mask, x, _, residual = data(shape, axis, kind, dtype)
    gamma, beta = parameters(shape[axis])
    eps = EPS[dtype]
    own = compressed(x, axis, mask)
    exact, mean, var = reference.batch_norm(own, gamma, beta)
    scale = abs(gamma) * (1 + abs(own - mean) / np.sqrt(var + 1e-5)) + abs(beta)

    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis, mask=mask)
    assert moments.count == mask.sum()
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moments.var, var, rtol=1e-12)
    assert (abs(y - spread(exact, shape, axis, mask)) <= 4 * eps * spread(scale, shape, axis, mask)).all()
    assert not np.moveaxis(y, axis, -1)[~mask].any()
    alone = bnfast.moments(x, axis=axis, mask=mask)
    assert (alone.count, *map(np.ndarray.tobytes, (alone.mean, alone.m2))) == (
        moments.count,
        *map(np.ndarray.tobytes, (moments.mean, moments.m2)),
    )

    # Against the same moments, what counts has the very bits that it has without a mask.
    plain = bnfast.normalize(own, moments.mean, moments.var, gamma, beta)
    fused = np.maximum(plain + compressed(residual, axis, mask), dtype(0))
    for want, more in ((plain, {}), (fused, dict(activation="relu", residual=residual))):
        given = (x, moments.mean, moments.var, gamma, beta)
        want = spread(want, shape, axis, mask)
        assert same_bits(bnfast.normalize(*given, axis=axis, mask=mask, **more), want)
        trained = bnfast.batch_norm(x, gamma, beta, axis=axis, mask=mask, **more)[0]
        np.testing.assert_allclose(trained, want, atol=20 * eps, rtol=8 * eps)
        assert not np.moveaxis(trained, axis, -1)[~mask].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_backward(shape, axis, kind, dtype):
    mask, x, dy, _ = data(shape, axis, kind, dtype)
    gamma, beta = parameters(shape[axis])
    eps = EPS[dtype]
    moments = bnfast.moments(x, axis=axis, mask=mask)
    own, grad = compressed(x, axis, mask), compressed(dy, axis, mask)
    common = dict(axis=axis, mask=mask)
    for want, got in (
        (
            reference.batch_norm_backward(grad, own, gamma),
            bnfast.batch_norm_backward(dy, x, moments, gamma, **common),
        ),
        (
            reference.normalize_backward(grad, own, moments.mean, moments.var, gamma),
            bnfast.normalize_backward(dy, x, moments.mean, moments.var, gamma, **common),
        ),
    ):
        each = abs(grad * (own - moments.mean) / np.sqrt(moments.var + 1e-5)), abs(grad)
        terms = each[1] + each[1].mean(0) + 3 * each[0].mean(0)
        scale = along(abs(gamma) / np.sqrt(moments.var + 1e-5), shape, axis) * spread(terms * 3, shape, axis, mask)
        assert (abs(got[0] - spread(want[0], shape, axis, mask)) <= 8 * eps * scale).all()
        assert not np.moveaxis(got[0], axis, -1)[~mask].any()
        for vector, exact, summed in zip(got[1:], want[1:], each, strict=True):
            assert (abs(vector - exact) <= eps * abs(exact) + 1e-13 * summed.sum(0)).all()

    y = bnfast.batch_norm(x, gamma, beta, activation="relu", **common)[0]
    gated = np.where(y > 0, dy, dtype(0))
    want = bnfast.batch_norm_backward(gated, x, moments, gamma, **common)
    got = bnfast.batch_norm_backward(dy, x, moments, gamma, beta=beta, activation="relu", **common)
    assert all(same_bits(a, b) for a, b in zip(got[1:], want[1:], strict=True))
    np.testing.assert_allclose(got[0], want[0], atol=8 * eps * abs(np.nan_to_num(want[0])).max())
    *got, dresidual = bnfast.batch_norm_backward(dy, x, moments, gamma, activation="relu", y=y, **common)
    assert all(same_bits(a, b) for a, b in zip([*got, dresidual], [*want, gated], strict=True))


def every_pass(shape, axis, kind, dtype, **more):
    mask, x, dy, residual = data(shape, axis, kind, dtype)
    gamma, beta = parameters(shape[axis])
    common = {"axis": axis, "mask": mask, **more}
    y, moments = bnfast.batch_norm(x, gamma, beta, activation="relu", residual=residual, **common)
    return [
        y,
        moments.mean,
        moments.m2,
        bnfast.moments(x, **common).m2,
        bnfast.normalize(x, moments.mean, moments.var, gamma, beta, **common),
        *bnfast.batch_norm_backward(dy, x, moments, gamma, activation="relu", y=y, **common),
        *bnfast.batch_norm_backward(dy, x, moments, gamma, beta=beta, activation="relu", **common),
        *bnfast.normalize_backward(dy, x, moments.mean, moments.var, gamma, **common),
    ]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("shape", "axis"), [*LARGE, ((1, 3, 257, 1029), 1), ((1500, 200), 1), ((9001, 17), 1)])
def test_same_bits_for_any_thread_count(shape, axis, kind):
    first = every_pass(shape, axis, kind, np.float32, num_threads=THREADS[0])
    assert all(np.isfinite(a).all() for a in first)
    for threads in THREADS[1:]:
        for a, b in zip(first, every_pass(shape, axis, kind, np.float32, num_threads=threads), strict=True):
            assert same_bits(a, b)


def everything(rng, shape):
    return np.ones(shape, bool)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_a_mask_of_all_is_no_mask(shape, axis, dtype):
    masked = every_pass(shape, axis, everything, dtype)
    without = every_pass(shape, axis, everything, dtype, mask=None)
    assert all(same_bits(a, b) for a, b in zip(masked, without, strict=True))


@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_exact_sums_are_equal_in_both_layouts(shape, axis):
    rng = np.random.default_rng(1)
    mask = random(rng, without_channels(shape, axis)) | few(rng, without_channels(shape, axis))
    x, dy = (rng.integers(-4, 5, shape).astype(np.float32) for _ in range(2))
    other = 1 if axis in (-1, x.ndim - 1) else -1
    found = []
    for a, g, along_ in ((x, dy, axis), (*(np.ascontiguousarray(np.moveaxis(v, axis, other)) for v in (x, dy)), other)):
        y, moments = bnfast.batch_norm(a, axis=along_, mask=mask)
        dx, *params = bnfast.batch_norm_backward(g, a, moments, axis=along_, mask=mask)
        found.append([np.moveaxis(y, along_, 0).copy(), np.moveaxis(dx, along_, 0).copy(), moments.m2, *params])
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("shape", "axis"), [((3, 2, 5, 3), 1), ((3, 5, 3, 2), -1), ((6, 17), 1)])
def test_central_differences(shape, axis):
    mask, x, dy, _ = data(shape, axis, random, np.float64)
    x, dy = np.nan_to_num(x, nan=0.5), np.nan_to_num(dy, posinf=1)
    gamma, beta = (v.astype(np.float64) for v in parameters(shape[axis]))

    def loss(x, gamma, beta):
        return (bnfast.batch_norm(x, gamma, beta, axis=axis, mask=mask)[0] * dy).sum()

    moments = bnfast.moments(x, axis=axis, mask=mask)
    step, given = 1e-5, [x, gamma, beta]
    for n, got in enumerate(bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis, mask=mask)):
        for i in np.ndindex(got.shape):
            ends = []
            for sign in (1, -1):
                moved = [v.copy() for v in given]
                moved[n][i] += sign * step
                ends.append(loss(*moved))
            assert abs((ends[0] - ends[1]) / (2 * step) - got[i]) < 1e-7


@pytest.mark.parametrize(("shape", "axis"), CASES + LARGE)
def test_in_place(shape, axis):
    mask, x, dy, _ = data(shape, axis, random, np.float32)
    y, moments = bnfast.batch_norm(x, axis=axis, mask=mask)
    dx = bnfast.batch_norm_backward(dy, x, moments, axis=axis, mask=mask)[0]
    assert bnfast.batch_norm_backward(dy, x, moments, axis=axis, mask=mask, out=dy)[0] is dy
    assert bnfast.batch_norm(x, axis=axis, mask=mask, out=x)[0] is x
    assert same_bits(x, y)
    assert same_bits(dy, dx)


def test_out_over_the_mask():
    memory = np.zeros(64, np.uint8)
    mask = memory[:6].view(bool)
    mask[:4] = True
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    want = bnfast.batch_norm(x, mask=mask.copy())[0]
    got = bnfast.batch_norm(x, mask=mask, out=memory[:48].view(np.float32).reshape(6, 2))[0]
    assert same_bits(got.copy(), want)


@pytest.mark.parametrize("axis", [1, -1])
def test_masks_that_broadcast(axis):
    shape = (4, 3, 5, 3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    positions = without_channels(shape, axis)
    for part in (positions[1:], (positions[0], 1, 1), (1, positions[1], 1), ()):
        mask = np.array(rng.random(part) < 0.5 if part else True)
        whole = np.broadcast_to(mask, positions)
        want, got = bnfast.batch_norm(x, axis=axis, mask=whole.copy()), bnfast.batch_norm(x, axis=axis, mask=mask)
        assert same_bits(got[0], want[0])
        assert got[1].count == whole.sum()
    bytes_of_two = np.full(positions, 2, np.uint8).view(bool)
    assert bnfast.moments(x, axis=axis, mask=bytes_of_two).count == np.prod(positions)
    flipped = np.asfortranarray(rng.random(positions) < 0.5)
    assert same_bits(
        bnfast.moments(x, axis=axis, mask=flipped).m2, bnfast.moments(x, axis=axis, mask=flipped.copy()).m2
    )


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (3000, 3), (2, 3, 300, 300), (1, 3), (1, 3, 1, 1)])
def test_nothing_counts(shape):
    x, mask = np.full(shape, np.nan, np.float32), np.zeros(without_channels(shape, 1), bool)
    y, moments = bnfast.batch_norm(x, mask=mask, residual=x)
    assert moments.count == 0
    assert not any(array.any() for array in (y, moments.mean, moments.m2))
    for gradients in (
        bnfast.batch_norm_backward(x, x, moments, mask=mask),
        bnfast.batch_norm_backward(x, x, moments, mask=mask, activation="relu", y=x),
        bnfast.normalize_backward(x, x, moments.mean, moments.mean, mask=mask),
    ):
        assert not any(gradient.any() for gradient in gradients)
    assert not bnfast.normalize(x, moments.mean, moments.mean, beta=np.ones(3), mask=mask).any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 5, 7), 1), ((4, 5, 7, 3), -1)])
def test_module(shape, axis, training):
    mask, x, dy, _ = data(shape, axis, padded, np.float32)
    bn, other = (bnfast.BatchNorm(3, axis=axis) for _ in range(2))
    for b in (bn, other):
        b.gamma[:], b.beta[:] = parameters(3)
    own, grad = compressed(x, axis, mask), compressed(dy, axis, mask)
    other.axis = -1
    for b, values, more in ((bn, x, dict(mask=mask)), (other, own, {})):
        b(values, **more)
        b.train(training)
    y, want = bn(x, mask=mask), other(own)
    np.testing.assert_allclose(compressed(y, axis, mask), want, atol=1e-5)
    np.testing.assert_allclose(bn.running_mean, other.running_mean, rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, other.running_var, rtol=1e-12)
    assert not np.moveaxis(y, axis, -1)[~mask].any()
    dx = bn.backward(dy)
    np.testing.assert_allclose(dx, spread(other.backward(grad), shape, axis, mask), atol=1e-5)
    np.testing.assert_allclose(bn.dgamma, other.dgamma, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bn.dbeta, other.dbeta, rtol=1e-5, atol=1e-5)

    before = bn.state_dict()
    assert not bn(x, mask=np.zeros_like(mask)).any()
    assert not bn.backward(dy).any()
    assert not bn.dbeta.any()
    assert all(np.array_equal(value, before[name]) for name, value in bn.state_dict().items())


X = np.ones((4, 3, 5), np.float32)
ONE = np.arange(20).reshape(4, 5) == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda x, mask: bnfast.batch_norm(x, mask=mask),
        lambda x, mask: bnfast.normalize(x, np.ones(3), np.ones(3), mask=mask),
        lambda x, mask: bnfast.batch_norm_backward(x, x, bnfast.moments(x), mask=mask),
        lambda x, mask: bnfast.normalize_backward(x, x, np.ones(3), np.ones(3), mask=mask),
        lambda x, mask: bnfast.moments(x, mask=mask),
        lambda x, mask: bnfast.BatchNorm(3)(x, mask=mask),
    ],
)
def test_bad_masks(call):
    for mask, error, message in (
        (np.ones((4, 5)), TypeError, "^mask: got float64 ndarray, wants"),
        (np.ones((4, 5), np.uint8), TypeError, "^mask: got uint8"),
        (np.ma.masked_array(np.ones((4, 5), bool)), TypeError, "^mask: got bool MaskedArray"),
        (np.ones((4, 3, 5), bool), ValueError, r"^mask: got shape \(4, 3, 5\), wants one that broadcasts to \(4, 5\)"),
        (np.ones((3, 5), bool), ValueError, r"^mask: got shape \(3, 5\)"),
        (np.ones((1, 4, 5), bool), ValueError, r"^mask: got shape \(1, 4, 5\)"),
    ):
        with pytest.raises(error, match=message):
            call(X, mask)


def test_one_value_a_channel():
    bn = bnfast.BatchNorm(3)
    for call in (bnfast.batch_norm, bn):
        out = np.full_like(X, 7)
        with pytest.raises(ValueError, match="one value a channel"):
            call(X, mask=ONE, out=out)
        assert (out == 7).all()
    assert bn.num_batches_tracked == 0
    assert bnfast.moments(X * 3, mask=ONE).count == 1
    assert bnfast.moments(X * 3, mask=ONE).mean.tolist() == [3, 3, 3]
    assert bn.eval()(X, mask=ONE).any(1).sum() == 1


def test_moments_of_another_count():
    with pytest.raises(ValueError, match=r"^moments: got \(3,\) statistics of 20 values, wants \(3,\) of 1"):
        bnfast.batch_norm_backward(X, X, bnfast.moments(X), mask=ONE)


def test_an_empty_batch():
    y, moments = bnfast.batch_norm(X[:0], mask=np.ones((0, 5), bool))
    assert y.shape == (0, 3, 5)
    assert moments.count == 0


@pytest.mark.parametrize("view", [(6, 64, 4), (1, 3, 5000), (3001, 5, 1)])
def test_half_types_below_python(view):
    mask, x, _, _ = data(view, 1, random, np.float16)
    out = np.empty_like(x)
    mean, m2 = run(kernels.FORWARD, kernels.BATCH, view, x, out, mask.view(np.uint8))
    y, exact, var = reference.batch_norm(compressed(x, 1, mask))
    np.testing.assert_allclose(mean, exact, atol=1e-12)
    np.testing.assert_allclose(m2 / mask.sum(), var, rtol=1e-12)
    np.testing.assert_allclose(out, spread(y, view, 1, mask), rtol=1e-3, atol=1e-3)


def run(op, norm, view, x, out, mask):
    return kernels.run(op, view, x, out, out, 1e-5, 2, norm=norm, mask=mask)


def test_what_the_c_face_refuses():
    x, view = np.ones((2, 3, 4), np.float32), (2, 3, 4)
    one = (np.arange(8) == 3).view(np.uint8)
    for norm, out, mask, message in (
        (kernels.GROUP, x.copy(), one, "or a mask"),
        (kernels.BATCH, x.copy(), one, "one value a statistic"),
        (kernels.BATCH, x, x.view(np.uint8), "shares memory"),
    ):
        with pytest.raises(ValueError, match=message):
            run(kernels.FORWARD, norm, view, x, out, mask)
        assert (out == 1).all()


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 5, 7), 1), ((4, 5, 7, 3), -1)])
def test_module_with_a_residual(shape, axis, activation):
    mask, x, dy, residual = data(shape, axis, random, np.float32)
    bn, other = (bnfast.BatchNorm(3, axis=a, activation=activation) for a in (axis, -1))
    own, grad, added = (compressed(a, axis, mask) for a in (x, dy, residual))
    y, want = bn(x, residual=residual, mask=mask), other(own, residual=added)
    np.testing.assert_allclose(y, spread(want, shape, axis, mask), atol=1e-5)
    for got, exact in zip(bn.backward(dy), other.backward(grad), strict=True):
        np.testing.assert_allclose(got, spread(exact, shape, axis, mask), atol=1e-5)
