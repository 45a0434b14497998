"""What must hold for any array, tried on many."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import along, parameters, same_bits

import bnfast
from bnfast import reference

# A slow machine is no failure; what must hold is tried on as many arrays either way.
settings.register_profile("bnfast", deadline=None)
settings.load_profile("bnfast")

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def arrays(draw, integers=False):
    """(x, axis): rank 2 to 5, any axis, at least two values a channel."""
    shape = draw(st.lists(sizes, min_size=2, max_size=5))
    axis = draw(st.integers(0, len(shape) - 1))
    if int(np.prod(shape)) == shape[axis]:
        shape[axis - 1] += 1
    rng = np.random.default_rng(draw(seeds))
    x = rng.integers(-8, 9, shape) if integers else rng.standard_normal(shape)
    return x, axis


@given(arrays(integers=True), st.sampled_from([0.5, 2.0, 4.0]), st.integers(-64, 64))
def test_shift_and_scale_invariance(case, scale, shift):
    x, axis = case
    a = bnfast.batch_norm(x.astype(np.float32), axis=axis, eps=1e-30)[0]
    b = bnfast.batch_norm((x * scale + shift).astype(np.float32), axis=axis, eps=1e-30)[0]
    np.testing.assert_allclose(a, b, atol=2e-6)


@given(arrays(), st.data())
def test_layouts_agree(case, data):
    x, axis = case
    to = data.draw(st.integers(0, x.ndim - 1))
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    moved, moved_moments = bnfast.batch_norm(np.ascontiguousarray(np.moveaxis(x, axis, to)), gamma, beta, axis=to)
    np.testing.assert_allclose(moved, np.moveaxis(y, axis, to), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moved_moments.m2, moments.m2, rtol=1e-10, atol=1e-13)


@given(arrays(), st.data())
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
def test_output_does_not_depend_on_where_it_goes(case, offset):
    x, axis = case
    memory = np.zeros(x.size + 16)
    out = memory[offset : offset + x.size].reshape(x.shape)
    y, _ = bnfast.batch_norm(x, axis=axis)
    assert same_bits(bnfast.batch_norm(x, axis=axis, out=out)[0].copy(), y)
    assert not memory[:offset].any()
    assert not memory[offset + x.size :].any()


def rest(x, axis):
    """All axes but one."""
    return tuple(i for i in range(x.ndim) if i != axis)


def slopes(x, seed=0):
    return np.random.default_rng(seed).standard_normal(x.shape)


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@given(arrays(), st.sampled_from([np.float32, np.float64]))
def test_the_formula(case, dtype):
    x, axis = case
    x = x.astype(dtype)
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    exact, mean, var = reference.batch_norm(x, gamma, beta, axis=axis)
    close(y, exact, 3e-6 * (abs(exact).max() + 3) if dtype == np.float32 else 1e-9)
    close(moments.mean, mean)
    close(moments.var, var)


@given(arrays())
def test_moments_then_normalize_is_batch_norm(case):
    x, axis = case
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    apart = bnfast.moments(x, axis=axis)
    assert same_bits(apart.mean, moments.mean)
    assert same_bits(apart.m2, moments.m2)
    close(bnfast.normalize(x, apart.mean, apart.var, gamma, beta, axis=axis), y, 1e-12)


@given(arrays())
def test_the_result_has_mean_beta_and_spread_gamma(case):
    x, axis = case
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.batch_norm(x, gamma, beta, axis=axis)
    after = bnfast.moments(y, axis=axis)
    close(after.mean, beta)
    close(after.var, gamma.astype(float) ** 2 * moments.var / (moments.var + 1e-5))


@given(arrays(), st.integers(1, 7), st.integers(0, 2))
def test_threads_do_not_change_bits(case, threads, grow):
    """Larger arrays too, so that threads have something to do."""
    x, axis = case
    x = np.concatenate([x] * (1, 4, 1 + (1 << 18) // x.size)[grow], axis=(axis + 1) % x.ndim)
    dy = slopes(x)
    y, moments = bnfast.batch_norm(x, axis=axis, num_threads=1)
    assert same_bits(bnfast.batch_norm(x, axis=axis, num_threads=threads)[0], y)
    one = bnfast.batch_norm_backward(dy, x, moments, axis=axis, num_threads=1)
    many = bnfast.batch_norm_backward(dy, x, moments, axis=axis, num_threads=threads)
    assert all(map(same_bits, many, one))


@given(arrays(integers=True), seeds)
def test_the_order_of_exact_values_does_not_matter(case, seed):
    """Sums of small integers are exact, if the value that they are taken about stays."""
    x, axis = case
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float32)
    order = np.r_[0, 1 + np.random.default_rng(seed).permutation(len(rows) - 1)]
    y, moments = bnfast.batch_norm(rows)
    mixed, mixed_moments = bnfast.batch_norm(rows[order])
    assert same_bits(mixed_moments.mean, moments.mean)
    assert same_bits(mixed_moments.m2, moments.m2)
    assert same_bits(mixed, y[order])


@given(arrays(), seeds)
def test_channels_do_not_know_of_each_other(case, seed):
    x, axis = case
    order = np.random.default_rng(seed).permutation(x.shape[axis])
    gamma, beta = parameters(x.shape[axis])
    y = bnfast.batch_norm(x, gamma, beta, axis=axis)[0]
    mixed = bnfast.batch_norm(np.take(x, order, axis), gamma[order], beta[order], axis=axis)[0]
    close(mixed, np.take(y, order, axis), 1e-12)


@given(arrays(), st.data())
def test_views_are_their_copies(case, data):
    """Steps, reversals and transposes of a larger array, also to write to."""
    x, axis = case
    memory = np.zeros([3 * n for n in x.shape])
    step = [data.draw(st.sampled_from([1, 2, 3, -1, -2, -3])) for _ in x.shape]
    view = memory[tuple(slice(None if s < 0 else 0, None, s) for s in step)]
    view = view[tuple(slice(0, n) for n in x.shape)]
    view[...] = x
    before = memory.copy()
    y = bnfast.batch_norm(x, axis=axis)[0]
    assert same_bits(bnfast.batch_norm(view, axis=axis)[0], y)
    assert (memory == before).all()
    turned = bnfast.batch_norm(view.T, axis=x.ndim - 1 - axis)[0]
    close(turned.T, y, 1e-9)
    assert bnfast.batch_norm(view, axis=axis, out=view)[0] is view
    assert same_bits(view.copy(), y)


@given(arrays(), st.sampled_from([np.float32, np.float64]), st.integers(1, 7))
def test_byte_order_and_alignment(case, dtype, skew):
    x, axis = case
    x = x.astype(dtype)
    y = bnfast.batch_norm(x, axis=axis)[0]
    swapped = x.astype(x.dtype.newbyteorder())
    crooked = np.zeros(x.nbytes + 8, np.uint8)[skew : skew + x.nbytes].view(dtype).reshape(x.shape)
    crooked[...] = x
    for same in (swapped, crooked):
        got = bnfast.batch_norm(same, axis=axis)[0]
        assert same_bits(got, y)
        assert got.dtype.isnative
    bnfast.batch_norm(x, axis=axis, out=crooked)
    assert same_bits(crooked.copy(), y)


@given(arrays(), st.integers(-9, 9))
def test_overlap_is_right(case, shift):
    x, axis = case
    y, moments = bnfast.batch_norm(x, axis=axis)
    dy = slopes(x)
    dx = bnfast.batch_norm_backward(dy, x, moments, axis=axis)[0]
    for run, source, wanted in (
        (lambda a, out: bnfast.batch_norm(a, axis=axis, out=out), x, y),
        (lambda a, out: bnfast.normalize(a, moments.mean, moments.var, axis=axis, out=out), x, None),
        (lambda a, out: bnfast.batch_norm_backward(dy, a, moments, axis=axis, out=out), x, dx),
        (lambda a, out: bnfast.batch_norm_backward(a, x, moments, axis=axis, out=out), dy, dx),
    ):
        wanted = bnfast.normalize(x, moments.mean, moments.var, axis=axis) if wanted is None else wanted
        memory = np.zeros(x.size + 18)
        given = memory[9 : 9 + x.size].reshape(x.shape)
        given[...] = source
        out = memory[9 + shift : 9 + shift + x.size].reshape(x.shape)
        run(given, out)
        assert same_bits(out.copy(), wanted)


@given(arrays(), st.data())
def test_concatenated_batches_have_the_merged_moments(case, data):
    x, axis = case
    along_axis = (axis + 1) % x.ndim
    cut = data.draw(st.integers(0, x.shape[along_axis]))
    a, b = (bnfast.moments(part, axis=axis) for part in np.split(x, [cut], along_axis))
    merged, whole = a.merge(b), bnfast.moments(x, axis=axis)
    assert merged.count == whole.count
    close(merged.mean, whole.mean, 1e-12)
    close(merged.m2, whole.m2, 1e-11)


@given(arrays(integers=True), st.sampled_from([0.25, 2.0, 8.0]), st.integers(-32, 32))
def test_moments_follow_shift_and_scale(case, scale, shift):
    x, axis = case
    m, moved = bnfast.moments(x.astype(float), axis=axis), bnfast.moments(x * scale + shift, axis=axis)
    close(moved.mean, m.mean * scale + shift, 1e-13)
    close(moved.m2, m.m2 * scale**2, 1e-12)


@given(arrays(), seeds, st.floats(-4, 4), st.booleans())
def test_backward_is_linear_in_dy(case, seed, weight, frozen):
    x, axis = case
    gamma = parameters(x.shape[axis])[0]
    m = bnfast.moments(x, axis=axis)
    eps = 0.1

    def back(dy):
        if frozen:
            return bnfast.normalize_backward(dy, x, m.mean, m.var, gamma, axis=axis, eps=eps)
        return bnfast.batch_norm_backward(dy, x, m, gamma, axis=axis, eps=eps)

    a, b = slopes(x, seed), slopes(x, seed + 1)
    for mixed, one, two in zip(back(a + weight * b), back(a), back(b), strict=True):
        close(mixed, one + weight * two, 1e-9)


@given(arrays(), seeds)
def test_backward_is_its_own_transpose(case, seed):
    """The Jacobian of batch_norm without gamma is symmetric."""
    x, axis = case
    m = bnfast.moments(x, axis=axis)
    a, b = slopes(x, seed), slopes(x, seed + 1)
    one, two = (bnfast.batch_norm_backward(dy, x, m, axis=axis, eps=0.1)[0] for dy in (a, b))
    close((one * b).sum(rest(x, axis)), (two * a).sum(rest(x, axis)), 1e-9)


@given(arrays(), seeds)
def test_frozen_backward_is_a_scale(case, seed):
    x, axis = case
    m, dy, gamma = bnfast.moments(x, axis=axis), slopes(x, seed), parameters(x.shape[axis])[0]
    dx, dgamma, dbeta = bnfast.normalize_backward(dy, x, m.mean, m.var, gamma, axis=axis)
    close(dx, dy * along(gamma / np.sqrt(m.var + 1e-5), x.shape, axis), 1e-9 * (1 + abs(dx).max()))
    xhat = bnfast.normalize(x, m.mean, m.var, axis=axis)
    close(dgamma, (dy * xhat).sum(rest(x, axis)), 1e-9)
    close(dbeta, dy.sum(rest(x, axis)), 1e-11)


def grouped(x, axis):
    """As group norm takes it: samples first, at least two values a statistic."""
    axis = axis or 1
    return (x if x.size > x.shape[0] * x.shape[axis] else np.stack([x, x * 2 + 1], -1)), axis


@given(arrays(), st.sampled_from([np.float32, np.float64]))
def test_instance_norm_is_group_norm_of_each_channel_and_batch_norm_of_each_sample(case, dtype):
    x, axis = grouped(*case)
    x = x.astype(dtype)
    gamma, beta = parameters(x.shape[axis])
    y, moments = bnfast.instance_norm(x, gamma, beta, axis=axis)
    assert same_bits(bnfast.group_norm(x, x.shape[axis], gamma, beta, axis=axis)[0], y)
    for sample, own, mean in zip(x, y, moments.mean, strict=True):
        single, of = bnfast.batch_norm(sample[None], gamma, beta, axis=axis)
        close(single[0], own, 1e-9 if dtype == np.float64 else 2e-5)
        close(of.mean, mean, 1e-9)


@given(arrays(), seeds)
def test_one_group_is_one_run_of_a_batch_norm(case, seed):
    x, axis = grouped(*case)
    y, moments = bnfast.group_norm(x, 1, axis=axis)
    flat = x.reshape(1, len(x), -1)
    as_batch, of = bnfast.batch_norm(flat)
    close(y.reshape(flat.shape), as_batch, 1e-9)
    close(moments.m2[:, 0], of.m2, 1e-9)
    dy = slopes(x, seed)
    dx = bnfast.group_norm_backward(dy, x, moments, axis=axis, eps=0.1)[0]
    close(dx.reshape(flat.shape), bnfast.batch_norm_backward(dy.reshape(flat.shape), flat, of, eps=0.1)[0], 1e-9)


@given(arrays(), seeds)
def test_relu_and_residual_are_the_same_apart(case, seed):
    x, axis = case
    gamma, beta = parameters(x.shape[axis])
    residual = slopes(x, seed)
    plain = bnfast.batch_norm(x, gamma, beta, axis=axis)[0]
    assert same_bits(bnfast.batch_norm(x, gamma, beta, axis=axis, residual=residual)[0], plain + residual)
    y, m = bnfast.batch_norm(x, gamma, beta, axis=axis, residual=residual, activation="relu")
    np.testing.assert_array_equal(y, np.maximum(plain + residual, 0))
    again = bnfast.batch_norm(x, gamma, beta, axis=axis, residual=-y, activation="relu")[0]
    assert not (again > np.maximum(plain, 0)).any()
    dy = slopes(x, seed + 1)
    dx, dgamma, dbeta, dresidual = bnfast.batch_norm_backward(
        dy, x, m, gamma, beta=beta, axis=axis, activation="relu", y=y
    )
    assert same_bits(dresidual, np.where(y > 0, dy, 0))
    wanted = bnfast.batch_norm_backward(dresidual, x, m, gamma, axis=axis)
    assert all(map(same_bits, (dx, dgamma, dbeta), wanted))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 9), seeds)
def test_folding_is_normalizing_after(outputs, inputs, rows, seed):
    rng = np.random.default_rng(seed)
    weight, bias, x = (rng.standard_normal(n) for n in ((outputs, inputs), outputs, (rows, inputs)))
    mean, var = rng.standard_normal(outputs), rng.uniform(0.1, 2, outputs)
    gamma, beta = parameters(outputs)
    folded, moved = bnfast.fold_batch_norm(weight, bias, (mean, var, gamma, beta))
    close(x @ folded.T + moved, bnfast.normalize(x @ weight.T + bias, mean, var, gamma, beta), 1e-9)


@given(arrays(), st.sampled_from([None, 0.0, 0.5, 0.9, 1.0]), st.booleans(), st.integers(1, 4))
def test_a_saved_object_goes_on_alike(case, momentum, unbiased, calls):
    x, axis = case
    bn, other = (bnfast.BatchNorm(x.shape[axis], axis=axis, momentum=momentum, unbiased=unbiased) for _ in range(2))
    for n in range(calls):
        bn(x * (n + 1))
    other.load_state_dict(bn.state_dict())
    copy = pickle.loads(pickle.dumps(bn))
    for same in (other, copy):
        assert same_bits(same.eval()(x), bn.eval()(x))
        same.train()(x + 1)
    bn.train()(x + 1)
    for same in (other, copy):
        assert same.num_batches_tracked == bn.num_batches_tracked == calls + 1
        assert same_bits(same.running_var, bn.running_var)


@given(arrays(), st.sampled_from([None, 0.5, 0.9]), st.integers(1, 5))
def test_running_averages_are_their_formula(case, momentum, calls):
    x, axis = case
    bn = bnfast.BatchNorm(x.shape[axis], axis=axis, momentum=momentum, unbiased=False)
    mean, var = np.zeros(x.shape[axis]), np.ones(x.shape[axis])
    for n in range(calls):
        bn(x + n)
        m = bnfast.moments(x + n, axis=axis)
        keep = 1 - 1 / (n + 1) if momentum is None else momentum
        mean, var = keep * mean + (1 - keep) * m.mean, keep * var + (1 - keep) * m.var
    close(bn.running_mean, mean, 1e-12)
    close(bn.running_var, var, 1e-12)
