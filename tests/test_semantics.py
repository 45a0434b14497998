"""The rows of the table of semantics: layouts, array kinds, out, empties, NaN, dtypes."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from zoo import parameters, same_bits

import bnfast
from bnfast import _kernels as kernels
from bnfast import reference
from bnfast._geometry import view

LAST = np.array([[[[1, 5], [2, 6]], [[3, 7], [4, 8]]], [[[2, 6], [3, 7]], [[4, 8], [5, 9]]]], np.float32)
FIRST = np.array([[[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]], np.float32)


@pytest.mark.parametrize(("x", "axis"), [(LAST, -1), (FIRST, 1)])
def test_the_two_small_examples(x, axis):
    y, moments = bnfast.batch_norm(x, axis=axis, eps=1e-5)
    assert moments.mean.tolist() == [3, 7]
    assert moments.var.tolist() == [1.5, 1.5]
    y = np.moveaxis(y, axis, 1)
    for channel in range(2):
        np.testing.assert_allclose(y[0, channel].ravel(), [-1.633, -0.816, 0, 0.816], atol=5e-4)
        np.testing.assert_allclose(y[1, channel].ravel(), [-0.816, 0, 0.816, 1.633], atol=5e-4)
    bn = bnfast.BatchNorm(2, axis=axis)
    bn(x)
    np.testing.assert_allclose(bn.running_mean, [0.3, 0.7], rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, 0.9 + 0.1 * 1.5 * 8 / 7, rtol=1e-12)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_any_axis_of_any_rank(rank):
    shape = (4, 3, 5, 2, 6)[:rank]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for axis in range(-rank, rank):
        y, moments = bnfast.batch_norm(x, axis=axis)
        exact, mean, var = reference.batch_norm(x, axis=axis)
        np.testing.assert_allclose(y, exact, atol=2e-6)
        np.testing.assert_allclose(moments.mean, mean, atol=1e-12)
        np.testing.assert_allclose(moments.var, var, rtol=1e-12)


def kinds(x):
    """The same values in other strides, byte orders and alignments."""
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    every_other = np.repeat(x, 2, axis=-1)[..., ::2]
    memory = x.view(type("Sub", (np.ndarray,), {}))
    return {
        "fortran": np.asfortranarray(x),
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "every other": every_other,
        "swapped": x.astype(x.dtype.newbyteorder()),
        "unaligned": unaligned,
        "read-only": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "subclass": memory,
        "list": x.tolist() if x.dtype == np.float64 else list(x),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", kinds(np.zeros((2, 2))))
def test_array_kinds(kind, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((6, 3, 7, 4)).astype(dtype) for _ in range(2))
    gamma, beta = parameters(3)
    y, moments = bnfast.batch_norm(x, gamma, beta)
    gradients = bnfast.batch_norm_backward(dy, x, moments, gamma)
    odd_x, odd_dy = kinds(x)[kind], kinds(dy)[kind]
    out = np.zeros((6, 3, 7, 8), dtype)[..., ::2]
    for given in (None, out, np.zeros(x.shape, x.dtype.newbyteorder())):
        got, got_moments = bnfast.batch_norm(odd_x, gamma.astype(">f8"), np.repeat(beta, 2)[::2], out=given)
        assert given is None or got is given
        assert same_bits(np.ascontiguousarray(got, dtype), y)
        assert type(got) is np.ndarray
        assert got.dtype.newbyteorder("=") == dtype
        assert same_bits(got_moments.mean, moments.mean)
        got_gradients = bnfast.batch_norm_backward(odd_dy, odd_x, got_moments, gamma, out=given)
        for a, b in zip(got_gradients, gradients, strict=True):
            assert same_bits(np.ascontiguousarray(a, dtype), b)
    if kind in ("reversed", "swapped", "unaligned"):
        assert bnfast.batch_norm(odd_x, gamma, beta, out=odd_x)[0] is odd_x
        assert same_bits(np.ascontiguousarray(odd_x, dtype), y)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((8, 16, 8, 8), 1), ((2, 6000), -1), ((9, 7, 7, 40), -1), ((6, 1, 9), 1)])
def test_the_common_call_gives_what_the_checked_one_gives(shape, axis, fused, dtype):
    rng = np.random.default_rng(0)
    x, dy, residual = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    param = np.float64 if dtype == np.float64 else np.float32
    gamma, beta, mean, var = (rng.uniform(0.5, 2, shape[axis]).astype(param) for _ in range(4))
    relu = "relu" if fused else None
    added = {"activation": relu, "residual": residual} if fused else {}
    opened = {"activation": relu, "beta": beta} if fused else {}
    moments = bnfast.moments(x, axis=axis)
    calls = {
        "batch_norm": lambda **more: bnfast.batch_norm(x, gamma, beta, **added, **more),
        "normalize": lambda **more: bnfast.normalize(x, mean, var, gamma, beta, **added, **more),
        "batch_norm_backward": lambda **more: bnfast.batch_norm_backward(dy, x, moments, gamma, **opened, **more),
        "normalize_backward": lambda **more: bnfast.normalize_backward(dy, x, mean, var, gamma, **opened, **more),
    }
    for name, call in calls.items():
        common = call(axis=axis, out=np.full_like(x, 7))
        checked = call(axis=np.int64(axis))  # of a kind that only the careful way takes
        for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (common, checked)), strict=True):
            if isinstance(a, bnfast.Moments):
                assert (type(a.count), a.count) == (int, b.count)
                assert same_bits(a.mean, b.mean), name
                assert same_bits(a.m2, b.m2), name
            else:
                assert a.dtype == b.dtype
                assert same_bits(a, b), name


def test_only_what_can_be_used_as_it_is_takes_the_common_way():
    x, dy, out = (np.random.default_rng(0).standard_normal((4, 3, 5), np.float32) for _ in range(3))
    ones, moments = np.ones(3, np.float32), bnfast.moments(x)
    good = dict(x=x, axis=1, dy=None, out=out, gamma=ones, beta=ones, mean=None, var=None, eps=1e-5, num_threads=None)
    good |= dict(activation=None, residual=None)

    def taken(op, moments, **other):
        before = out.copy()
        done = kernels.run_if_ready(op, moments, *(good | other).values())
        assert done is not None or same_bits(out, before)
        return done is not None

    assert taken(kernels.FORWARD, bnfast.Moments)
    assert taken(kernels.FORWARD, bnfast.Moments, activation="relu", residual=dy, out=None, num_threads=2)
    assert taken(kernels.FORWARD, bnfast.Moments, residual=out)
    one = {"x": x[:, :1].copy(), "out": None, "gamma": ones[:1], "beta": None}
    assert taken(kernels.FORWARD, bnfast.Moments, **one)
    axes = kernels.ready(one["x"], 1, None, None, ones[:1], None, None, None, 1e-5, None)
    assert axes == view((4, 1, 5), 1) == (1, 1, 20)
    given = {"mean": np.ones(3), "var": np.ones(3)}
    assert taken(kernels.NORMALIZE, None, **given)
    assert taken(kernels.NORMALIZE_BACKWARD, None, dy=dy, **given)
    assert taken(kernels.BACKWARD, moments, dy=dy, mean=moments.mean, var=moments.m2)
    for other in (
        {"x": x[::-1]},
        {"x": x.astype(">f4")},
        {"axis": 3},
        {"axis": np.int64(1)},
        {"out": out[:, :, :4]},
        {"out": np.frombuffer(out.tobytes(), np.float32).reshape(out.shape)},
        {"out": out.astype(np.float64)},
        {"gamma": np.ones(4, np.float32)},
        {"gamma": [1, 1, 1]},
        {"beta": out.ravel()[:3]},
        {"eps": 0.0},
        {"eps": 1},
        {"num_threads": 0},
        {"activation": "gelu"},
        {"activation": 0},
        {"residual": out[:2]},
        {"residual": ones},
    ):
        assert not taken(kernels.FORWARD, bnfast.Moments, **other), other
    for other in ({"mean": None}, {"var": None}, {"var": -np.ones(3)}, {"var": np.ones(2)}):
        assert not taken(kernels.NORMALIZE, None, **given | other), other
    fewer = bnfast.Moments(19, moments.mean, moments.m2)
    assert not taken(kernels.BACKWARD, fewer, dy=dy, mean=fewer.mean, var=fewer.m2)
    wide = {"dy": dy, "gamma": np.ones(3)}  # whose gradient is rounded
    assert not taken(kernels.BACKWARD, moments, mean=moments.mean, var=moments.m2, **wide)


@pytest.mark.parametrize(("shape", "axis"), [((8, 5, 6, 7), 1), ((8, 6, 7, 5), -1), ((64, 64, 40, 40), 1)])
def test_in_place(shape, axis):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    gamma, beta = parameters(shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    for threads in (1, 3):
        a = x.copy()
        assert bnfast.batch_norm(a, gamma, beta, axis=axis, out=a, num_threads=threads)[0] is a
        assert same_bits(a, y)
        dx, dgamma, dbeta = bnfast.batch_norm_backward(dy, x, moments, gamma, axis=axis, num_threads=threads)
        for reused in ("dy", "x"):
            arrays = {"dy": dy.copy(), "x": x.copy()}
            got = bnfast.batch_norm_backward(
                **arrays, moments=moments, gamma=gamma, axis=axis, out=arrays[reused], num_threads=threads
            )
            assert got[0] is arrays[reused]
            for one, other in zip(got, (dx, dgamma, dbeta), strict=True):
                assert same_bits(one, other)


@pytest.mark.parametrize("offset", [-40, -3, 1, 17])
@pytest.mark.parametrize("axis", [1, -1])
def test_partly_overlapping_out_is_still_right(offset, axis):
    rng = np.random.default_rng(0)
    memory = rng.standard_normal(2000).astype(np.float32)
    x = memory[100:1300].reshape(20, 3, 20) if axis == 1 else memory[100:1300].reshape(20, 20, 3)
    out = memory[100 + offset : 1300 + offset].reshape(x.shape)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    kept = x.copy()
    y, moments = bnfast.batch_norm(kept, axis=axis)
    dx, _, _ = bnfast.batch_norm_backward(dy, kept, moments, axis=axis)
    memory_before = memory.copy()
    assert bnfast.batch_norm(x, axis=axis, out=out)[0] is out
    assert same_bits(out.copy(), y)
    memory[:] = memory_before
    bnfast.batch_norm_backward(dy, x, moments, axis=axis, out=out)
    assert same_bits(out.copy(), dx)


def test_out_over_the_parameters_is_still_right():
    rng = np.random.default_rng(0)
    memory = rng.standard_normal(64).astype(np.float32)
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    gamma, out = memory[30:33], memory[:60].reshape(5, 3, 4)
    y, _ = bnfast.batch_norm(x, gamma.copy(), gamma.copy())
    bnfast.batch_norm(x, gamma, gamma, out=out)
    assert same_bits(out.copy(), y)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (5, 3, 0), (0, 3), (4, 0, 5), (0, 0), (1, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_batches_and_zero_channels(shape, dtype):
    x, channels = np.zeros(shape, dtype), shape[1]
    y, moments = bnfast.batch_norm(x, np.ones(channels), np.ones(channels))
    assert y.shape == shape
    assert y.dtype == dtype
    assert moments.count == x.size // channels if channels else True
    assert bnfast.normalize(x, np.ones(channels), np.ones(channels)).shape == shape
    dx, dgamma, dbeta = bnfast.batch_norm_backward(x, x, moments)
    assert dx.shape == shape
    assert dgamma.tolist() == dbeta.tolist() == [0] * channels
    _, dgamma, dbeta = bnfast.normalize_backward(x, x, np.ones(channels), np.ones(channels))
    assert dgamma.tolist() == dbeta.tolist() == [0] * channels
    assert np.isnan(moments.var).all() or channels == 0 or moments.count
    if len(shape) == 2:
        assert bnfast.instance_norm(x)[0].shape == bnfast.group_norm(x, max(channels, 1))[0].shape == shape


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 5, 6, 6), 1), ((8, 6, 6, 5), -1), ((40, 64, 40, 40), 1), ((64, 7), 1)]
)
@pytest.mark.parametrize("where", [0, -1])
def test_nan_and_inf_stay_in_their_channel(bad, shape, axis, where):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    clean, moments = bnfast.batch_norm(x, axis=axis)
    dx, dgamma, dbeta = bnfast.batch_norm_backward(dy, x, moments, axis=axis)
    spoiled = np.moveaxis(x, axis, 1)
    spoiled[(where, 3) + (where,) * (x.ndim - 2)] = bad
    with np.errstate(invalid="ignore"):
        exact = reference.batch_norm(x, axis=axis)
    y, spoiled_moments = bnfast.batch_norm(x, axis=axis)
    got = bnfast.batch_norm_backward(dy, x, spoiled_moments, axis=axis)
    assert np.isnan(np.moveaxis(y, axis, 1)[:, 3]).all()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact[0]))
    assert np.isnan(np.moveaxis(got[0], axis, 1)[:, 3]).all()
    others = [c for c in range(shape[axis]) if c != 3]
    for a, b in ((y, clean), (got[0], dx)):
        a, b = (np.moveaxis(v, axis, 1)[:, others] for v in (a, b))
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(got[1][others], dgamma[others])
    assert got[2][3] == dbeta[3]


def test_nan_statistics_flow_through():
    x = np.ones((2, 2), np.float32)
    y = bnfast.normalize(x, [0.0, np.nan], [np.nan, 1.0])
    assert np.isnan(y).all()


def test_infinite_mean_follows_ieee():
    x = np.ones((2, 3), np.float32)
    y = bnfast.normalize(x, [np.inf, -np.inf, 0.0], [1.0, 1.0, np.inf])
    assert y[0].tolist() == [-np.inf, np.inf, 0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinite_gamma_follows_ieee(dtype):
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(dtype)
    y = bnfast.batch_norm(x, [np.inf, -np.inf, 1.0], [1.0, 2.0, 3.0])[0]
    above = x > x.mean(axis=0)
    assert np.array_equal(y[:, :2], np.where(above[:, :2], [np.inf, -np.inf], [-np.inf, np.inf]))
    assert np.isfinite(y[:, 2]).all()


@pytest.mark.parametrize("dtypes", list(itertools.product([np.float32, np.float64], repeat=3)))
def test_dtypes(dtypes):
    x_type, vector_type, out_type = dtypes
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(x_type)
    vector = np.ones(3, vector_type)
    y, moments = bnfast.batch_norm(x, vector, vector)
    dx, dgamma, dbeta = bnfast.batch_norm_backward(x, x, moments, vector)
    assert {y.dtype, dx.dtype, dgamma.dtype, dbeta.dtype} == {np.dtype(x_type)}
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    if out_type != x_type:
        with pytest.raises(ValueError, match="^out"):
            bnfast.normalize(x, vector, vector, out=np.zeros((4, 3), out_type))


def test_moments_merge():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4, 5)).astype(np.float32) + 100
    whole = bnfast.moments(x)
    empty = bnfast.moments(x[:0])
    parts = [bnfast.moments(part) for part in np.split(x, [7, 8, 20])]
    merged = empty
    for part in parts:
        merged = merged.merge(part)
    merged = merged.merge(empty)
    assert merged.count == whole.count == 150
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-12)
    np.testing.assert_allclose(whole.var_unbiased, x.astype(float).var((0, 2), ddof=1), rtol=1e-12)
    assert np.isnan(empty.var).all()
    assert np.isnan(bnfast.moments(x[:1, :, :1]).var_unbiased).all()


def test_moments_are_copied_and_pickled():
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    for moments in (bnfast.batch_norm(x)[1], bnfast.Moments(4, [1.0, 2.0], [3.0, 4.0])):
        for again in (copy.deepcopy(moments), *(pickle.loads(pickle.dumps(moments, n)) for n in range(2, 6))):
            assert (type(again), again.count) == (bnfast.Moments, 4)
            assert same_bits(again.mean, moments.mean)
            assert same_bits(again.m2, moments.m2)
            assert repr(again) == repr(moments)
        with pytest.raises(AttributeError):
            moments.other = 1
        for name in ("count", "mean", "m2"):  # whose sizes the kernels trust
            with pytest.raises(AttributeError):
                setattr(moments, name, np.zeros(1))


@pytest.mark.parametrize("channels", [256, 1024, 2048])
def test_wherever_the_output_begins_in_a_page(channels):
    """Coefficients of such rows are placed by it."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 37, channels), dtype=np.float32)
    gamma, beta = parameters(channels)
    y, moments = bnfast.batch_norm(x, gamma, beta)
    dx = bnfast.batch_norm_backward(dy, x, moments, gamma)[0]
    memory = np.zeros(x.size + 1024, np.float32)
    for start in range(0, 1024, 61):
        out = memory[start : start + x.size].reshape(x.shape)
        assert same_bits(bnfast.batch_norm(x, gamma, beta, out=out)[0], y)
        assert same_bits(bnfast.batch_norm_backward(dy, x, moments, gamma, out=out)[0], dx)


@pytest.mark.parametrize("axis", [1, -1])
def test_non_temporal_stores_are_complete(axis):
    """More than half of what the caches keep, at every alignment of the output, rows shorter and longer than a line."""
    size = bnfast.show_config("dicts")["cache_bytes"] // 2 // 4 + (1 << 16)
    for inner in (9, 196, 1024 * 3):
        shape = (size // (8 * inner) + 1, 8, inner)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        whole, moments = bnfast.batch_norm(x, axis=axis)
        exact = reference.normalize(x[-3:], moments.mean, moments.var, axis=axis)
        np.testing.assert_allclose(whole[-3:], exact, atol=4e-6)
        for offset in (1, 5, 16):
            memory = np.full(x.size + 32, 7, np.float32)
            out = memory[offset : offset + x.size].reshape(shape)
            bnfast.batch_norm(x, axis=axis, out=out)
            assert same_bits(out, whole)
            assert (memory[:offset] == 7).all()
            assert (memory[offset + x.size :] == 7).all()


@pytest.mark.parametrize("inner", [784, 3136, 5000])
def test_sums_beside_an_output_past_the_cache(inner):
    """Lots of several channels and of one, a last lot that is smaller, rows of several chunks; fused, and in place."""
    channels = 37
    outer = (bnfast.show_config("dicts")["cache_bytes"] // 5 + (1 << 16)) // (channels * inner) + 1
    rng = np.random.default_rng(inner)
    x, dy = (rng.standard_normal((outer, channels, inner), np.float32) for _ in range(2))
    gamma, beta = rng.uniform(0.5, 2, channels), rng.uniform(-1, 1, channels)
    shape, shut = (1, outer * channels, inner), {"activation": "relu", "beta": beta}
    exact = reference.batch_norm(x, gamma, beta)[0]
    y, moments = bnfast.batch_norm(x, gamma, beta, num_threads=1)
    relu = bnfast.batch_norm(x, gamma, beta, activation="relu", num_threads=1)[0]
    join = bnfast.batch_norm(x, gamma, beta, residual=dy, activation="relu", num_threads=1)[0]
    instance, _ = bnfast.instance_norm(x)
    np.testing.assert_allclose(y, exact, atol=6e-6)
    np.testing.assert_allclose(join, np.maximum(exact + dy, 0), atol=6e-6)
    assert same_bits(relu, np.maximum(y, 0))
    assert same_bits(instance.reshape(shape), bnfast.batch_norm(x.reshape(shape))[0])

    plain = bnfast.batch_norm_backward(dy, x, moments, gamma, num_threads=1)
    gated = bnfast.batch_norm_backward(dy, x, moments, gamma, **shut, num_threads=1)
    for got, through in ((plain, dy), (gated, np.where(relu > 0, dy, 0))):
        for a, b, size in zip(got, reference.batch_norm_backward(through, x, gamma), (1, 1e3, 1e3), strict=True):
            np.testing.assert_allclose(a, b, atol=8e-6 * size)

    for threads in (2, 3):
        out = x.copy()
        assert same_bits(bnfast.batch_norm(out, gamma, beta, out=out, num_threads=threads)[0], y)
        out = dy.copy()
        again = bnfast.batch_norm_backward(out, x, moments, gamma, out=out, num_threads=threads)
        assert all(map(same_bits, again, plain))
        out = x.copy()
        again = bnfast.batch_norm_backward(dy, out, moments, gamma, **shut, out=out, num_threads=threads)
        assert all(map(same_bits, again, gated))


@pytest.mark.parametrize("rest", [1, 16, 31])
def test_sums_beside_an_output_past_the_cache_of_a_short_last_piece(rest):
    """Rows of 63 pieces and a few elements more, in half a second-level cache of 1 MiB or more."""
    inner = 63 * 4096 + rest
    channels = bnfast.show_config("dicts")["cache_bytes"] // (3 * inner) + 2
    x = np.random.default_rng(rest).standard_normal((1, channels, inner), np.float32).astype(np.float16)
    exact = reference.batch_norm(x.astype(np.float64))[0]
    for threads in (1, 2, 3):
        y, moments = bnfast.batch_norm(x, num_threads=threads)
        alone = bnfast.moments(x, num_threads=threads)
        assert same_bits(moments.mean, alone.mean)
        assert same_bits(moments.m2, alone.m2)
        np.testing.assert_allclose(y, exact, rtol=1e-3, atol=1e-5)
