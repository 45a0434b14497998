"""Layer and RMS norm against their oracle: rows of one or several trailing axes, a gamma and a beta an element."""

import numpy as np
import pytest
from zoo import EPS32, HARD, THREADS, hard, same_bits

import bnfast
from bnfast import reference

# (shape, axes): rows of one and of many, short and long; enough elements for threads, rows in whole and shared chunks.
CASES = [
    ((7,), -1),
    ((1, 2), 1),
    ((5, 1), -1),
    ((4, 3, 63), -1),
    ((2, 3, 64), (2,)),
    ((2, 3, 5, 13), (-2, -1)),
    ((2, 3, 7, 7), (3, 1, 2)),
    ((3, 5, 16), (0, 1, 2)),
    ((33, 17), -1),
    ((8, 49, 200), -1),
    ((2000, 65), -1),
    ((9001, 9), -1),
    ((2, 3, 129, 257), (2, 3)),
    ((1, 100003), -1),
]
NORMS = ["layer", "rms"]


def row_shape(shape, axes):
    return shape[len(shape) - np.size(axes) :]


def parameters(norm, shape, axes):
    """gamma, and beta if the norm has one, of both signs."""
    rng = np.random.default_rng(1)
    count = 2 if norm == "layer" else 1
    return tuple(rng.standard_normal((count, *row_shape(shape, axes))).astype(np.float32))


def forward(norm, x, parameters=(), module=bnfast, **options):
    return getattr(module, f"{norm}_norm")(x, *parameters, **options)


def backward(norm, *given, module=bnfast, **options):
    return getattr(module, f"{norm}_norm_backward")(*given, **options)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("norm", NORMS)
def test_forward_keeps_the_bound(norm, shape, axes, name):
    x = hard(name, shape, 0)
    given = parameters(norm, shape, axes)
    y, moments = forward(norm, x, given, axes=axes)
    xhat = forward(norm, x, module=reference, axes=axes)
    exact = forward(norm, x, given, module=reference, axes=axes)
    assert (abs(y - exact) <= 4 * EPS32 * (abs(given[0]) * (1 + abs(xhat)) + sum(map(abs, given[1:])))).all()
    rows = x.reshape(*shape[: len(shape) - np.size(axes)], -1).astype(float)
    assert moments.count == rows.shape[-1]
    assert moments.mean.shape == moments.m2.shape == rows.shape[:-1]
    if norm == "rms":
        assert not moments.mean.any()
        np.testing.assert_allclose(moments.var, (rows * rows).mean(-1), rtol=1e-12)


def test_a_constant_row_and_a_row_of_one():
    gamma, beta = np.array([[2, -3, 0.5], [1, 7, -2]], np.float32)
    y, _ = bnfast.layer_norm(np.full((4, 3), 1e5, np.float32), gamma, beta)
    assert (y == beta).all()
    assert bnfast.layer_norm(np.ones((2, 1)), [2.0], [3.0])[0].tolist() == [[3], [3]]
    np.testing.assert_allclose(bnfast.rms_norm(np.full((4, 3), 1e5), gamma)[0], np.tile(gamma, (4, 1)), rtol=1e-9)


@pytest.mark.parametrize("name", ["mean 0", "mean 1e4", "mean 1e6", "scale 1e30"])
@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_keep_the_bound(norm, shape, axes, name):
    x, dy = hard(name, shape, 0), hard("mean 0", shape, 0, seed=2)
    gamma = parameters(norm, shape, axes)[0]
    _, moments = forward(norm, x, axes=axes)
    dx, *sums = backward(norm, dy, x, moments, gamma, axes=axes)
    exact, *exact_sums = backward(norm, dy, x, gamma, module=reference, axes=axes)
    xhat = forward(norm, x, module=reference, axes=axes)
    along = tuple(range(x.ndim - np.size(axes), x.ndim))
    g = dy.astype(float) * gamma
    terms = abs(g) + (1 + abs(xhat)) * abs((g * xhat).mean(along, keepdims=True))
    if norm == "layer":
        terms += abs(g.mean(along, keepdims=True))
    var = moments.var.reshape(*moments.mean.shape, *[1] * len(along))
    assert (abs(dx - exact) <= 8 * EPS32 * terms / np.sqrt(var + 1e-5)).all()
    others = tuple(range(x.ndim - len(along)))
    for got, want, weight in zip(sums, exact_sums, (1 + abs(xhat), 1)[: len(sums)], strict=True):
        assert got.shape == row_shape(shape, axes)
        assert (abs(got - want) <= EPS32 * (abs(dy) * weight).sum(others, dtype=float)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("norm", NORMS)
def test_same_bits_for_any_thread_count_and_in_place(norm, shape, axes, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(dtype) * 3 + 1 for _ in range(2))
    given = parameters(norm, shape, axes)
    results = []
    for threads in THREADS:
        options = dict(axes=axes, num_threads=threads)
        y, moments = forward(norm, x, given, **options)
        results.append([y, moments.mean, moments.m2, *backward(norm, dy, x, moments, given[0], **options)])
        own = x.copy()
        assert forward(norm, own, given, out=own, **options)[0] is own
        assert same_bits(own, y)
        for reused in range(2):
            arrays = [dy.copy(), x.copy()]
            got = backward(norm, *arrays, moments, given[0], out=arrays[reused], **options)
            assert got[0] is arrays[reused]
            assert all(same_bits(a, b) for a, b in zip(got, results[-1][3:], strict=True))
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("shape", "axes"), [((3, 5), -1), ((2, 3, 4), (1, 2)), ((6,), 0)])
@pytest.mark.parametrize("norm", NORMS)
def test_central_differences(norm, shape, axes):
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((2, *shape))
    given = tuple(vector.astype(float) for vector in parameters(norm, shape, axes))
    _, moments = forward(norm, x, given, axes=axes)
    gradients = backward(norm, weight, x, moments, given[0], axes=axes)

    def loss():
        return float((forward(norm, x, given, axes=axes)[0] * weight).sum())

    for array, gradient in zip((x, *given), gradients, strict=True):
        assert gradient.dtype == np.float64
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + 1e-5
            above = loss()
            array[i] = kept - 1e-5
            assert abs(gradient[i] - (above - loss()) / 2e-5) < 1e-7
            array[i] = kept


@pytest.mark.parametrize("norm", NORMS)
def test_more_than_the_cache_at_any_alignment(norm):
    """What is written past the cache is complete, and nothing beside it is touched."""
    size = bnfast.show_config("dicts")["cache_bytes"] // 2 // 4 + (1 << 16)
    for inner in (9, 3072):
        x = np.random.default_rng(0).standard_normal((size // inner + 1, inner), np.float32)
        given = parameters(norm, x.shape, -1)
        want, moments = forward(norm, x, given)
        few = slice(-3, None)
        np.testing.assert_allclose(want[few], forward(norm, x[few], given, module=reference), atol=1e-5)
        dx, *sums = backward(norm, x, x, moments, given[0])
        for offset in (1, 16):
            memory = np.full(x.size + 32, 7, np.float32)
            out = memory[offset : offset + x.size].reshape(x.shape)
            forward(norm, x, given, out=out)
            assert same_bits(out, want)
            backward(norm, x, x, moments, given[0], out=out)
            assert same_bits(out, dx)
            assert (memory[:offset] == 7).all()
            assert (memory[offset + x.size :] == 7).all()


@pytest.mark.parametrize("norm", NORMS)
def test_array_kinds(norm):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 6, 3, 8)).astype(np.float32)
    given = parameters(norm, x.shape, (1, 2))
    y, moments = forward(norm, x, given, axes=(1, 2))
    gradients = backward(norm, dy, x, moments, given[0], axes=(1, 2))
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    out = np.zeros((6, 3, 16), np.float32)[..., ::2]
    odd = tuple(np.asfortranarray(vector.astype(">f8")) for vector in given)
    for kind in (np.asfortranarray(x), unaligned, np.repeat(x, 2, -1)[..., ::2], x.astype(">f4")):
        got, again = forward(norm, kind, odd, axes=(1, 2), out=out)
        assert got is out
        assert same_bits(out.copy(), y)
        for a, b in zip(backward(norm, dy, kind, again, odd[0], axes=[2, 1]), gradients, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize("offset", [-40, -3, 1, 17])
@pytest.mark.parametrize("norm", NORMS)
def test_partly_overlapping_out_is_still_right(norm, offset):
    memory = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    x, out = memory[100:700].reshape(20, 30), memory[100 + offset : 700 + offset].reshape(20, 30)
    kept, dy = x.copy(), x[::-1].copy()
    y, moments = forward(norm, kept)
    dx = backward(norm, dy, kept, moments)[0]
    before = memory.copy()
    assert same_bits(forward(norm, x, out=out)[0].copy(), y)
    memory[:] = before
    assert same_bits(backward(norm, dy, x, moments, out=out)[0].copy(), dx)


@pytest.mark.parametrize("norm", NORMS)
def test_out_over_the_parameters_is_still_right(norm):
    """A row that is all of x has parameters of x's shape."""
    x, gamma = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float32)
    y, moments = forward(norm, x, (gamma,))
    dx = backward(norm, x, x, moments, gamma)[0]
    own, other = gamma.copy(), gamma.copy()
    assert forward(norm, x, (own,), out=own)[0] is own
    assert backward(norm, x, x, moments, other, out=other)[0] is other
    assert same_bits(own, y)
    assert same_bits(other, dx)


@pytest.mark.parametrize("norm", NORMS)
def test_out_over_the_moments_is_still_right(norm):
    """Rows of one element have as many moments as x has elements."""
    x = np.random.default_rng(0).standard_normal((5, 1))
    moments = forward(norm, x, ())[1]
    dx = backward(norm, x, x, moments, None)[0]
    own = moments.m2.reshape(x.shape)
    assert backward(norm, x, x, moments, None, out=own)[0] is own
    assert same_bits(own, dx)


@pytest.mark.parametrize(("shape", "axes"), [((0, 5), -1), ((3, 0), -1), ((0,), -1), ((2, 0, 3), (1, 2)), ((0, 0), -1)])
@pytest.mark.parametrize("norm", NORMS)
def test_empty(norm, shape, axes):
    x = np.zeros(shape, np.float32)
    y, moments = forward(norm, x, parameters(norm, shape, axes), axes=axes)
    assert y.shape == shape
    assert moments.mean.shape == shape[: len(shape) - np.size(axes)]
    dx, *sums = backward(norm, y, x, moments, axes=axes)
    assert dx.shape == shape
    for each in sums:
        assert each.shape == row_shape(shape, axes)
        assert not each.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_nan_and_inf_stay_in_their_row(norm, bad):
    x, dy = np.random.default_rng(0).standard_normal((2, 9, 40)).astype(np.float32)
    clean, moments = forward(norm, x)
    dx, dgamma, *_ = backward(norm, dy, x, moments)
    x[4, 7] = bad
    y, moments = forward(norm, x)
    got, *_ = backward(norm, dy, x, moments)
    others = np.arange(9) != 4
    with np.errstate(invalid="ignore"):
        exact = forward(norm, x, module=reference)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    for a, b in ((y, clean), (got, dx)):
        assert same_bits(a[others], b[others])


X, M = np.ones((2, 3), np.float32), bnfast.layer_norm(np.ones((2, 3), np.float32))[1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bnfast.layer_norm(np.float32(1)), ValueError, "^x: got a scalar"),
        (lambda: bnfast.layer_norm(X.astype(int)), TypeError, "^x: got dtype int64"),
        (lambda: bnfast.layer_norm(X, axes=0), ValueError, "^axes: got 0, wants the last axis"),
        (lambda: bnfast.layer_norm(X, axes=(1, -1)), ValueError, r"^axes: got \(1, -1\)"),
        (lambda: bnfast.layer_norm(X, axes=()), ValueError, r"^axes: got \(\)"),
        (lambda: bnfast.layer_norm(X, axes=2), ValueError, "^axes: got 2"),
        (lambda: bnfast.layer_norm(X, axes=-3), ValueError, "^axes: got -3"),
        (lambda: bnfast.layer_norm(X, axes=(-4, -3)), ValueError, r"^axes: got \(-4, -3\)"),
        (lambda: bnfast.layer_norm(X, axes=1.0), TypeError, "^axes: got 1.0"),
        (lambda: bnfast.layer_norm(X, axes="ab"), TypeError, "^axes: got 'ab'"),
        (
            lambda: bnfast.layer_norm(X, [1, 2]),
            ValueError,
            r"^gamma: got shape \(2,\), wants \(3,\), one value for each elem",
        ),
        (lambda: bnfast.layer_norm(X, X, axes=-1), ValueError, r"^gamma: got shape \(2, 3\), wants \(3,\)"),
        (lambda: bnfast.layer_norm(X, beta=np.ones(6), axes=(0, 1)), ValueError, r"^beta: got shape \(6,\)"),
        (lambda: bnfast.layer_norm(X, [[1], [1, 2]]), TypeError, "^gamma: got list"),
        (lambda: bnfast.layer_norm(X, np.ma.masked_array(X[0])), TypeError, "^gamma: got"),
        (lambda: bnfast.layer_norm(X, eps=0), ValueError, "^eps: got 0"),
        (lambda: bnfast.rms_norm(X, num_threads=0), ValueError, "^num_threads: got 0"),
        (lambda: bnfast.rms_norm(X, out=np.ones((3, 2), np.float32)), ValueError, "^out: got shape"),
        (lambda: bnfast.layer_norm_backward(None, X, M), TypeError, "^dy: got None"),
        (lambda: bnfast.layer_norm_backward(X[:1], X, M), ValueError, "^dy: got shape"),
        (lambda: bnfast.layer_norm_backward(X, X, (0, 1)), TypeError, "^moments: got tuple"),
        (lambda: bnfast.layer_norm_backward(X, X, bnfast.layer_norm(X[:1])[1]), ValueError, r"^moments: got \(1,\)"),
        (lambda: bnfast.rms_norm_backward(X, X, bnfast.rms_norm(X[:, :2])[1]), ValueError, "^moments: got .* of 2"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
