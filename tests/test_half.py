"""float16 and bfloat16: what float32 gives for the same values, rounded once."""

import ml_dtypes
import numpy as np
import pytest
from numpy._core._multiarray_umath import _get_sfloat_dtype
from numpy._core._rational_tests import rational
from zoo import CASES, EPS32, THREADS, along, parameters, same_bits

import bnfast
from bnfast import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BFLOAT16]
LARGE = [((32, 64, 28, 28), 1), ((32, 28, 28, 64), -1), ((1, 3, 512, 512), 1), ((64, 41, 43, 5), -1)]
both = pytest.mark.parametrize("half", HALVES, ids=str)

# name -> float64 from (rng, shape)
VALUES = {
    "near": lambda rng, shape: rng.standard_normal(shape) * 2 + 1,
    "largest": lambda rng, shape: rng.choice([-65504.0, 65504.0], shape),
    "mixed scales": lambda rng, shape: rng.standard_normal(shape) * 2.0 ** rng.integers(-24, 13, shape),
    "subnormals": lambda rng, shape: rng.integers(-1023, 1024, shape) * 2.0**-24,
}
VALUED = [(*case, name) for case in CASES for name in VALUES] + [(*case, "near") for case in LARGE]


def data(name, shape, half, count=3):
    rng = np.random.default_rng(0)
    return [VALUES[name](rng, shape).astype(half) for _ in range(count)]


def widened(given):
    """The same values in float32, of an argument that is an array of a half type."""
    return given.astype(np.float32) if getattr(given, "dtype", None) in HALVES else given


def rounded(result, half):
    with np.errstate(over="ignore"):
        return result.astype(half)


def check(function, half, *arguments, **options):
    """The results of `function` on half types, where arrays like x are those of float32, rounded."""
    got = function(*arguments, **options)
    wide = function(*map(widened, arguments), **{name: widened(value) for name, value in options.items()})
    for a, b in zip(*(result if isinstance(result, tuple) else (result,) for result in (got, wide)), strict=True):
        if isinstance(a, bnfast.Moments):
            assert a.count == b.count
            assert same_bits(a.mean, b.mean)
            assert same_bits(a.m2, b.m2)
        else:
            assert same_bits(a, rounded(b, half) if b.ndim > 1 else b)
    return got


@both
@pytest.mark.parametrize(("shape", "axis", "name"), VALUED)
def test_forward(shape, axis, name, half):
    x, residual, _ = data(name, shape, half)
    gamma, beta = parameters(shape[axis])
    m = bnfast.moments(x, axis=axis)
    assert same_bits(m.m2, bnfast.moments(widened(x), axis=axis).m2)
    for add in (None, residual):
        for activation in (None, "relu"):
            fused = dict(axis=axis, activation=activation, residual=add)
            check(bnfast.batch_norm, half, x, gamma, beta, **fused)
            check(bnfast.normalize, half, x, m.mean, m.var, gamma, beta, **fused)


@both
@pytest.mark.parametrize(("shape", "axis", "name"), VALUED)
def test_backward(shape, axis, name, half):
    x, residual, dy = data(name, shape, half)
    gamma, beta = parameters(shape[axis])
    m = bnfast.moments(x, axis=axis)
    y, _ = bnfast.batch_norm(x, gamma, beta, axis=axis, residual=residual, activation="relu")
    for fused in ({}, dict(activation="relu", beta=beta), dict(activation="relu", y=y)):
        check(bnfast.batch_norm_backward, half, dy, x, m, gamma, axis=axis, **fused)
        check(bnfast.normalize_backward, half, dy, x, m.mean, m.var, gamma, axis=axis, **fused)


@both
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("groups", [1, 4, 24])
@pytest.mark.parametrize(("shape", "axis"), [((3, 24, 9, 7), 1), ((3, 9, 7, 24), -1), ((2, 5, 24, 3), 2)])
def test_groups(shape, axis, groups, name, half):
    x, dy, residual = data(name, shape, half)
    gamma, beta = parameters(24)
    for fused in ({}, dict(activation="relu"), dict(residual=residual, activation="relu")):
        y, m = check(bnfast.group_norm, half, x, groups, gamma, beta, axis=axis, **fused)
        if "residual" in fused:
            fused = dict(activation="relu", y=y)
        elif fused:
            fused = dict(activation="relu", beta=beta)
        check(bnfast.group_norm_backward, half, dy, x, m, gamma, axis=axis, **fused)


@both
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("shape", [(7, 40), (3, 5, 64), (70, 333), (400, 1024), (2, 100001)])
def test_layers(shape, name, half):
    x, dy, _ = data(name, shape, half)
    gamma, beta = (vector.astype(half) for vector in parameters(shape[-1]))
    _, m = check(bnfast.layer_norm, half, x, gamma, beta)
    check(bnfast.layer_norm_backward, half, dy, x, m, gamma)
    _, m = check(bnfast.rms_norm, half, x, gamma)
    check(bnfast.rms_norm_backward, half, dy, x, m, gamma)


@both
@pytest.mark.parametrize(("shape", "axis"), [*LARGE, ((70, 64, 7, 7), 1), ((300, 4096), 1)])
def test_same_bits_for_any_thread_count(shape, axis, half):
    x, residual, dy = data("near", shape, half)
    results = []
    for threads in THREADS:
        options = dict(axis=axis, num_threads=threads)
        y, m = bnfast.batch_norm(x, residual=residual, activation="relu", **options)
        back = bnfast.batch_norm_backward(dy, x, m, activation="relu", y=y, **options)
        results.append([y, m.mean, m.m2, *back, bnfast.normalize(x, m.mean, m.var, **options)])
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def half_ulp(exact, half):
    """Half the distance of the numbers of a half type about `exact`."""
    digits, least = (10, -14) if half == np.float16 else (7, -126)
    return 2.0 ** (np.maximum(np.frexp(exact)[1] - 1, least) - digits - 1)


@both
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_accuracy(shape, axis, name, half):
    """Half a unit of the half type's last place beside the bounds of float32."""
    x, dy, _ = data(name, shape, half)
    gamma, beta = parameters(shape[axis])
    wide = x.astype(np.float64)
    y, m = bnfast.batch_norm(x, gamma, beta, axis=axis)
    exact, mean, var = reference.batch_norm(wide, gamma, beta, axis=axis)
    xhat = reference.normalize(wide, mean, var, axis=axis)
    bound = 4 * EPS32 * (abs(along(gamma, shape, axis)) * (1 + abs(xhat)) + abs(along(beta, shape, axis)))
    assert (abs(y.astype(np.float64) - exact) <= bound + half_ulp(abs(exact) + bound, half)).all()

    dy = (dy.astype(np.float64) / abs(dy.astype(np.float64)).max()).astype(half)
    g = dy.astype(np.float64)
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    scale = abs(along(gamma, shape, axis)) / np.sqrt(along(var, shape, axis) + 1e-5)
    through = abs((g * xhat).mean(axes, keepdims=True))
    bound = 8 * EPS32 * scale * (abs(g) + abs(g.mean(axes, keepdims=True)) + (1 + abs(xhat)) * through)
    dx = bnfast.batch_norm_backward(dy, x, m, gamma, axis=axis)[0].astype(np.float64)
    exact = reference.batch_norm_backward(g, wide, gamma, axis=axis)[0]
    assert (abs(dx - exact) <= bound + half_ulp(abs(exact) + bound, half)).all()


@both
def test_the_largest_and_beyond(half):
    """Squares, sums and products beyond float16 come back into it; a result that does not fit is Inf, as in a cast."""
    x = np.array([[65504.0], [-65504.0], [65504.0], [-65504.0]]).astype(half)
    y, m = bnfast.batch_norm(x)
    assert y.astype(float).ravel().tolist() == [1, -1, 1, -1]
    assert m.mean == 0
    assert m.var == float(x[0, 0]) ** 2
    largest = float(np.float16(65504) if half == np.float16 else ml_dtypes.finfo(half).max)
    y = bnfast.normalize(x, [0], [1], [largest], residual=x)
    assert np.isinf(y.astype(float)).all()
    assert same_bits(bnfast.normalize(x[::2], [0], [1], [2], [-65504]), x[::2].copy())


@both
def test_nan_and_inf_stay_in_their_channel(half):
    x = data("near", (8, 5, 6, 6), half, 1)[0]
    clean, _ = bnfast.batch_norm(x)
    x[0, 1, 0, 0], x[0, 3, 0, 0] = np.nan, np.inf
    y, _ = bnfast.batch_norm(x)
    assert np.isnan(y[:, [1, 3]].astype(float)).all()
    assert same_bits(y[:, ::2].copy(), clean[:, ::2].copy())


@both
@pytest.mark.parametrize(("shape", "axis"), [((8, 5, 6, 6), 1), ((8, 6, 6, 5), -1), ((32, 64, 28, 28), 1)])
def test_out_and_in_place(shape, axis, half):
    x, residual, dy = data("near", shape, half)
    want, m = bnfast.batch_norm(x, axis=axis)
    out = np.empty_like(x)
    assert bnfast.batch_norm(x, axis=axis, out=out)[0] is out
    assert same_bits(out, want)
    strided = np.empty((*shape[:-1], 2 * shape[-1]), half)[..., ::2]
    assert bnfast.batch_norm(x, axis=axis, out=strided)[0] is strided
    assert same_bits(strided.copy(), want)
    own = x.copy()
    assert bnfast.batch_norm(own, axis=axis, out=own)[0] is own
    assert same_bits(own, want)
    own = residual.copy()
    bnfast.batch_norm(x, axis=axis, residual=own, out=own)
    assert same_bits(own, bnfast.batch_norm(x, axis=axis, residual=residual)[0])
    own = dy.copy()
    assert bnfast.batch_norm_backward(own, x, m, axis=axis, out=own)[0] is own
    assert same_bits(own, bnfast.batch_norm_backward(dy, x, m, axis=axis)[0])


@both
def test_other_strides_byte_order_and_alignment(half):
    x = data("near", (6, 5, 4, 4), half, 1)[0]
    want, _ = bnfast.batch_norm(x)
    swapped = x.astype(half.newbyteorder("S"))
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(half).reshape(x.shape)
    turned = np.ascontiguousarray(x.T).T
    assert not unaligned.flags.aligned
    assert not swapped.dtype.isnative
    for given in (swapped, unaligned, turned):
        assert same_bits(bnfast.batch_norm(given)[0], want)


@both
def test_vectors_of_half_types_are_widened(half):
    x, _, dy = data("near", (8, 5, 6), half)
    gamma, beta, mean = data("near", 5, half)
    var = abs(mean)
    given = (x, mean, var, gamma, beta)
    wide = (x, *map(widened, given[1:]))
    assert same_bits(bnfast.normalize(*given), bnfast.normalize(*wide))
    got = bnfast.normalize_backward(dy, *given[:-1])
    assert all(same_bits(a, b) for a, b in zip(got, bnfast.normalize_backward(dy, *wide[:-1]), strict=True))
    assert got[1].dtype == got[2].dtype == np.float32
    got = bnfast.normalize(x.astype(np.float64), *given[1:])
    assert same_bits(got, bnfast.normalize(x.astype(np.float64), *wide[1:]))
    with pytest.raises(ValueError, match="var: got a negative variance"):
        bnfast.normalize(x, mean, -var)


@both
@pytest.mark.parametrize("axis", [1, -1])
def test_the_class(half, axis):
    x, dy, _ = data("near", (6, 5, 5), half)
    bn, wide = bnfast.BatchNorm(5, axis=axis), bnfast.BatchNorm(5, axis=axis)
    for _ in range(2):
        assert same_bits(bn(x), rounded(wide(widened(x)), half))
        assert same_bits(bn.backward(dy), rounded(wide.backward(widened(dy)), half))
        assert same_bits(bn.dgamma, wide.dgamma)
        bn.eval()
        wide.eval()
    assert same_bits(bn.running_var, wide.running_var)


@both
def test_fold(half):
    weight = data("near", (4, 3), half, 1)[0]
    folded, bias = bnfast.fold_batch_norm(weight, None, ([0.5] * 4, [3.0] * 4))
    exact, shift = bnfast.fold_batch_norm(weight.astype(np.float64), None, ([0.5] * 4, [3.0] * 4))
    assert same_bits(folded, exact.astype(half))
    assert same_bits(bias, shift.astype(half))


X = {half: np.ones((4, 3), half) for half in HALVES}
OTHERS = [np.dtype(np.float32), np.dtype(np.float64)]


@both
def test_mixed_types_are_refused(half):
    x = X[half]
    (other,) = [dtype for dtype in HALVES if dtype != half]
    m = bnfast.moments(x)
    for dtype in (other, *OTHERS):
        a = np.ones((4, 3), dtype)
        for given in (dict(out=a), dict(residual=a)):
            with pytest.raises(
                ValueError, match=f"{next(iter(given))}: got shape .* and dtype {dtype}, wants .*{half}"
            ):
                bnfast.batch_norm(x, **given)
        with pytest.raises(ValueError, match=f"dy: got shape .* and dtype {dtype}, wants those of x, .* and {half}"):
            bnfast.batch_norm_backward(a, x, m)


@pytest.mark.thread_unsafe(reason="NumPy makes its test dtype in one thread")
def test_types_that_are_no_floats_of_ours():
    """Also those whose number is not known to NumPy, or is beyond its own."""
    for dtype in (rational, _get_sfloat_dtype(), ml_dtypes.float8_e5m2, ml_dtypes.int4, np.longdouble):
        x = np.ones((4, 3)).astype(dtype) if dtype is not rational else np.full((4, 3), rational(1))
        with pytest.raises(TypeError, match="x: got dtype .*, wants float16, bfloat16, float32 or float64"):
            bnfast.batch_norm(x)
        with pytest.raises((TypeError, ValueError), match="(out|gamma|residual): got"):
            bnfast.batch_norm(X[BFLOAT16], out=x)
        with pytest.raises((TypeError, ValueError), match="residual: got"):
            bnfast.batch_norm(X[BFLOAT16], residual=x)
