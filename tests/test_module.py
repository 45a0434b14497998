"""BatchNorm: parameters, running averages, backward, state."""

import pickle

import numpy as np
import pytest
from zoo import same_bits

import bnfast


def batches(count, shape=(6, 3, 4), dtype=np.float32):
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(shape) * (i + 1) + i).astype(dtype) for i in range(count)]


@pytest.mark.parametrize("momentum", [0.9, 0.0, 1.0, 0.25])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_averages(momentum, unbiased):
    bn = bnfast.BatchNorm(3, momentum=momentum, unbiased=unbiased)
    mean, var = np.zeros(3), np.ones(3)
    for i, x in enumerate(batches(4), 1):
        bn(x)
        mean = momentum * mean + (1 - momentum) * x.astype(float).mean((0, 2))
        var = momentum * var + (1 - momentum) * x.astype(float).var((0, 2), ddof=int(unbiased))
        np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(bn.running_var, var, rtol=1e-12)
        assert bn.num_batches_tracked == i


def test_momentum_none_is_the_plain_average():
    bn, data = bnfast.BatchNorm(3, momentum=None), batches(5)
    for x in data:
        bn(x)
    np.testing.assert_allclose(bn.running_mean, np.mean([x.astype(float).mean((0, 2)) for x in data], 0), rtol=1e-12)
    np.testing.assert_allclose(bn.running_var, np.mean([x.astype(float).var((0, 2), ddof=1) for x in data], 0))


def test_momentum_one_ignores_a_nan_batch_and_zero_forgets_it():
    x = batches(1)[0]
    keeps, forgets = bnfast.BatchNorm(3, momentum=1), bnfast.BatchNorm(3, momentum=0)
    for bn in (keeps, forgets):
        bn(np.full_like(x, np.nan))
        bn(x)
    assert keeps.running_mean.tolist() == [0, 0, 0]
    np.testing.assert_allclose(forgets.running_mean, x.astype(float).mean((0, 2)))


def test_modes():
    bn, (x, other) = bnfast.BatchNorm(3), batches(2)
    assert bn.training
    bn(x)
    state = bn.state_dict()
    assert bn.eval() is bn
    y = bn(other)
    assert not bn.training
    assert same_bits(y, bnfast.normalize(other, bn.running_mean, bn.running_var, bn.gamma, bn.beta))
    assert all(np.array_equal(state[k], v) for k, v in bn.state_dict().items())
    assert bn.train() is bn
    assert same_bits(bn(other), bnfast.batch_norm(other, bn.gamma, bn.beta)[0])
    assert bn.num_batches_tracked == 2


@pytest.mark.parametrize("axis", [1, -1])
def test_backward(axis):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 4, 5, 5)).astype(np.float32)
    bn = bnfast.BatchNorm(5, axis=axis)
    bn.gamma[:] = rng.standard_normal(5)
    bn(x)
    dx = bn.backward(dy)
    exact = bnfast.batch_norm_backward(dy, x, bnfast.moments(x, axis=axis), bn.gamma, axis=axis)
    for a, b in zip((dx, bn.dgamma, bn.dbeta), exact, strict=True):
        assert same_bits(a, b)
    mean, var = bn.running_mean, bn.running_var
    bn.eval()(x)
    out = np.empty_like(x)
    assert bn.backward(dy, out=out) is out
    exact = bnfast.normalize_backward(dy, x, mean, var, bn.gamma, axis=axis)
    for a, b in zip((out, bn.dgamma, bn.dbeta), exact, strict=True):
        assert same_bits(a, b)


def test_backward_keeps_x_by_reference():
    bn, x = bnfast.BatchNorm(3), batches(1)[0]
    bn(x)
    assert bn._saved[0] is x


def test_backward_without_x():
    bn, x = bnfast.BatchNorm(3), batches(1)[0]
    with pytest.raises(RuntimeError, match="^backward: no x"):
        bn.backward(x)
    bn(x, out=x)
    with pytest.raises(RuntimeError, match="^backward: no x"):
        bn.backward(x)


def test_without_scale_and_shift():
    bn, x = bnfast.BatchNorm(3, scale=False, shift=False), batches(1)[0]
    assert bn.gamma is None
    assert bn.beta is None
    assert same_bits(bn(x), bnfast.batch_norm(x)[0])
    bn.backward(x)
    assert bn.dgamma is None
    assert bn.dbeta is None
    assert set(bn.state_dict()) == {"running_mean", "running_var", "num_batches_tracked"}
    with pytest.raises(ValueError, match="^x: got 4 channels, wants 3"):
        bn(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="^x: got 4 channels"):
        bn.eval()(np.ones((2, 4), np.float32))


def test_a_failed_call_changes_nothing():
    bn, x = bnfast.BatchNorm(3), batches(1)[0]
    bn(x)
    before, saved = bn.state_dict(), bn._saved
    for bad in (x[:, :2], x.astype(int), x[0, 0], np.ones((1, 3), np.float32)):
        with pytest.raises((ValueError, TypeError)):
            bn(bad)
    with pytest.raises(ValueError, match="out"):
        bn(x, out=np.zeros(3, np.float32))
    assert bn._saved is saved
    for name, value in bn.state_dict().items():
        assert np.array_equal(value, before[name])


@pytest.mark.parametrize("scale", [True, False])
def test_a_call_with_too_many_channels_writes_nothing(scale):
    bn, x = bnfast.BatchNorm(3, scale=scale, shift=scale), np.ones((2, 4), np.float32)
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match="^x: got 4 channels, wants 3"):
        bn(x, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("scale", [True, False])
def test_replaced_parameters_do_not_change_the_number_of_channels(scale):
    """The running averages have the old one."""
    bn = bnfast.BatchNorm(3, scale=scale, shift=not scale)
    setattr(bn, "gamma" if scale else "beta", np.ones(5, np.float32))
    with pytest.raises(ValueError, match="^x: got 5 channels, wants 3"):
        bn(np.ones((4, 5), np.float32))
    with pytest.raises(ValueError, match="^gamma: got" if scale else "^beta: got"):
        bn(np.ones((4, 3), np.float32))
    bn = bnfast.BatchNorm(3, scale=False, shift=False)
    bn.channels = 5
    with pytest.raises(ValueError, match="^x: got 5 channels, the running averages have 3"):
        bn(np.ones((4, 5), np.float32))


def test_empty_batch_changes_no_statistic():
    bn = bnfast.BatchNorm(3)
    assert bn(np.zeros((0, 3, 4), np.float32)).shape == (0, 3, 4)
    assert bn.num_batches_tracked == 0
    assert bn.running_var.tolist() == [1, 1, 1]
    dx = bn.backward(np.zeros((0, 3, 4), np.float32))
    assert dx.shape == (0, 3, 4)
    assert bn.dgamma.tolist() == [0, 0, 0]


def test_dtype():
    for dtype in ("float32", "float64"):
        bn = bnfast.BatchNorm(3, dtype=dtype)
        assert bn.gamma.dtype == bn.beta.dtype == dtype
        x = batches(1, dtype=dtype)[0]
        assert bn(x).dtype == dtype
        bn.backward(x)
        assert bn.dgamma.dtype == bn.dbeta.dtype == dtype


def test_state():
    bn, data = bnfast.BatchNorm(3), batches(3)
    for x in data:
        bn(x)
    bn.gamma[:] = 2
    state = bn.state_dict()
    other = bnfast.BatchNorm(3)
    other.load_state_dict(state)
    for copy in (other, pickle.loads(pickle.dumps(bn))):
        for name, value in copy.state_dict().items():
            assert np.array_equal(value, state[name])
        assert same_bits(copy.eval()(data[0]), bn.eval()(data[0]))
    state["gamma"][:] = 5
    assert bn.gamma[0] == 2
    assert other.gamma[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(gamma=np.ones(4)), "^gamma: got shape"),
        (dict(running_var=-np.ones(3)), "^running_var: got a negative"),
        (dict(num_batches_tracked=-1), "num_batches_tracked"),
        (dict(extra=1), "^state: got .*extra"),
    ],
)
def test_a_bad_state_changes_nothing(change, message):
    bn = bnfast.BatchNorm(3)
    bn(batches(1)[0])
    before = bn.state_dict()
    with pytest.raises(ValueError, match=message):
        bn.load_state_dict({**bnfast.BatchNorm(3).state_dict(), **change})
    missing = bn.state_dict()
    del missing["gamma"]
    with pytest.raises(ValueError, match="^state"):
        bn.load_state_dict(missing)
    for name, value in bn.state_dict().items():
        assert np.array_equal(value, before[name])
