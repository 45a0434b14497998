"""What must hold for any array, tried on many."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import parameters, same_bits

import bnfast

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def arrays(draw, integers=False):
    """(x, axis): rank 2 to 5, any axis, at least two values a channel."""
    shape = draw(st.lists(sizes, min_size=2, max_size=5).filter(lambda s: len(s)))
    axis = draw(st.integers(0, len(shape) - 1))
    if int(np.prod(shape)) == shape[axis]:
        shape[axis - 1] += 1
    rng = np.random.default_rng(draw(seeds))
    x = rng.integers(-8, 9, shape) if integers else rng.standard_normal(shape)
    return x, axis


@given(arrays(integers=True), st.sampled_from([0.5, 2.0, 4.0]), st.integers(-64, 64))
@settings(deadline=None)
def test_shift_and_scale_invariance(case, scale, shift):
    x, axis = case
    a = bnfast.batch_norm(x.astype(np.float32), axis=axis, eps=1e-30)[0]
    b = bnfast.batch_norm((x * scale + shift).astype(np.float32), axis=axis, eps=1e-30)[0]
    np.testing.assert_allclose(a, b, atol=2e-6)


@given(arrays(), st.data())
@settings(deadline=None)
def test_layouts_agree(case, data):
    x, axis = case
    to = data.draw(st.integers(0, x.ndim - 1))
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    moved, moved_moments = bnfast.batch_norm(np.ascontiguousarray(np.moveaxis(x, axis, to)), gamma, beta, axis=to)
    np.testing.assert_allclose(moved, np.moveaxis(y, axis, to), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moved_moments.m2, moments.m2, rtol=1e-10, atol=1e-13)


@given(arrays(), st.data())
@settings(deadline=None)
def test_merge_is_associative_and_commutative(case, data):
    x, axis = case
    x = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), min_size=2, max_size=2)))
    a, b, c = (bnfast.moments(part) for part in np.split(x, cuts))
    whole = bnfast.moments(x)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        assert merged.count == whole.count
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-11, atol=1e-13)


@given(arrays(), seeds)
@settings(deadline=None)
def test_gradient_is_orthogonal_to_shift_and_scale(case, seed):
    """Shifting or scaling x does not change y, so dx has no part along 1 or along xhat."""
    x, axis = case
    dy = np.random.default_rng(seed).standard_normal(x.shape)
    moments = bnfast.moments(x, axis=axis)
    dx, _, dbeta = bnfast.batch_norm_backward(dy, x, moments, axis=axis, eps=1e-300)
    axes = tuple(i for i in range(x.ndim) if i != axis)
    spread = np.sqrt(moments.var)
    scale = abs(dy).sum() / np.where(spread > 1e-3, spread, np.inf) + 1e-300
    assert (abs(dx.sum(axes)) * (spread > 1e-3) <= 1e-9 * np.maximum(scale, 1)).all()
    assert (abs((dx * x).sum(axes)) * (spread > 1e-3) <= 1e-7 * np.maximum(scale, 1)).all()
    np.testing.assert_allclose(dbeta, dy.sum(axes), rtol=1e-12, atol=1e-12)


@given(arrays(), st.integers(1, 9))
@settings(deadline=None)
def test_output_does_not_depend_on_where_it_goes(case, offset):
    x, axis = case
    memory = np.zeros(x.size + 16)
    out = memory[offset : offset + x.size].reshape(x.shape)
    y, _ = bnfast.batch_norm(x, axis=axis)
    assert same_bits(bnfast.batch_norm(x, axis=axis, out=out)[0].copy(), y)
    assert not memory[:offset].any()
    assert not memory[offset + x.size :].any()
