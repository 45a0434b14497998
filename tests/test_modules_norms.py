"""The classes beside BatchNorm, what all of them share, and their files."""

import io
import math
import pickle

import numpy as np
import pytest
from zoo import same_bits

import bnfast

NORMS = {
    "batch": lambda **options: bnfast.BatchNorm(4, **options),
    "batch, last": lambda **options: bnfast.BatchNorm(6, axis=-1, **options),
    "group": lambda **options: bnfast.GroupNorm(2, 4, **options),
    "group, last": lambda **options: bnfast.GroupNorm(3, 6, axis=-1, **options),
    "instance": lambda **options: bnfast.InstanceNorm(4, **options),
    "layer": lambda **options: bnfast.LayerNorm(6, **options),
    "layer, two axes": lambda **options: bnfast.LayerNorm((5, 6), **options),
    "rms": lambda **options: bnfast.RMSNorm([6], **options),
}
CHANNELS = [name for name in NORMS if name.startswith(("batch", "group", "instance"))]


def data(count=3):
    return np.random.default_rng(0).standard_normal((count, 3, 4, 5, 6)).astype(np.float32)


def trained(name, **options):
    norm = NORMS[name](**options)
    rng = np.random.default_rng(7)
    for vector in (norm.gamma, norm.beta):
        if vector is not None:
            vector[...] = rng.standard_normal(vector.shape)
    if name.startswith("batch"):
        norm(data(1)[0])
    return norm


def functions(norm, x, dy, **options):
    """(y, dx, dgamma, dbeta) by the functions."""
    match norm:
        case bnfast.BatchNorm():
            options |= dict(axis=norm.axis)
            y, moments = bnfast.batch_norm(x, norm.gamma, norm.beta, **options)
            return y, *bnfast.batch_norm_backward(dy, x, moments, norm.gamma, **options)
        case bnfast.GroupNorm():
            options |= dict(axis=norm.axis)
            y, moments = bnfast.group_norm(x, norm.groups, norm.gamma, norm.beta, **options)
            return y, *bnfast.group_norm_backward(dy, x, moments, norm.gamma, **options)
        case bnfast.LayerNorm():
            options |= dict(axes=tuple(range(-len(norm.shape), 0)))
            y, moments = bnfast.layer_norm(x, norm.gamma, norm.beta, **options)
            return y, *bnfast.layer_norm_backward(dy, x, moments, norm.gamma, **options)
        case bnfast.RMSNorm():
            y, moments = bnfast.rms_norm(x, norm.gamma, **options)
            return y, *bnfast.rms_norm_backward(dy, x, moments, norm.gamma, **options), None


@pytest.mark.parametrize("name", NORMS)
def test_the_same_as_the_functions(name):
    x, dy, out = data()
    norm = trained(name, eps=1e-3)
    y, dx, dgamma, dbeta = functions(norm, x, dy, eps=1e-3)
    assert same_bits(norm(x, num_threads=1), y)
    assert norm._saved[0] is x
    assert norm(x, out) is out
    assert same_bits(out, y)
    assert norm.backward(dy, out) is out
    assert same_bits(out, dx)
    assert same_bits(norm.dgamma, dgamma)
    assert norm.dbeta is None if dbeta is None else same_bits(norm.dbeta, dbeta)
    if not name.startswith("batch"):
        assert norm.eval() is norm
        assert not norm.training
        assert same_bits(norm(x), y)
        assert norm.train().training


@pytest.mark.parametrize("name", NORMS)
def test_backward_without_x(name):
    norm, x = NORMS[name](), data(1)[0]
    with pytest.raises(RuntimeError, match="^backward: no x"):
        norm.backward(x)
    norm(x, x)
    with pytest.raises(RuntimeError, match="^backward: no x"):
        norm.backward(x)


@pytest.mark.parametrize("mode", [True, False])
def test_backward_after_an_output_over_the_mask(mode):
    x, dy, out = data()
    positions = x.shape[:1] + x.shape[2:]
    mask = out.view(np.bool_).reshape(-1)[: math.prod(positions)].reshape(positions)
    mask[...] = True
    mask[0] = False
    norm = bnfast.BatchNorm(x.shape[1]).train(mode)
    y = norm(x, mask=mask.copy())
    assert same_bits(norm(x, out, mask=mask), y)
    with pytest.raises(RuntimeError, match="^backward: no x"):
        norm.backward(dy)


@pytest.mark.parametrize("name", NORMS)
def test_backward_after_an_output_beside_x(name):
    x, dy, _ = data()
    both = np.concatenate([x, x], axis=1)
    given, out = both[:, : x.shape[1]], both[:, x.shape[1] :]
    norm = trained(name)
    norm(x)
    dx = norm.backward(dy)
    norm(given, out)
    for _ in range(2):
        assert same_bits(norm.backward(dy, out), dx)
    assert same_bits(given, x)


@pytest.mark.parametrize("name", NORMS)
def test_backward_over_what_it_works_from_can_be_had_once(name):
    x, dy, out = data()
    norm = trained(name)
    norm(x)
    dx = norm.backward(dy, out).copy()
    assert same_bits(norm.backward(dy, x), dx)
    with pytest.raises(RuntimeError, match="^backward: no x"):
        norm.backward(dy)


def test_backward_over_the_output_that_is_kept_for_the_sign():
    x, dy, residual = data()
    norm = bnfast.BatchNorm(x.shape[1], activation="relu")
    y = norm(x, residual=residual)
    dx = norm.backward(dy)[0]
    assert same_bits(norm.backward(dy, y)[0], dx)
    with pytest.raises(RuntimeError, match="^backward: no x"):
        norm.backward(dy)


@pytest.mark.parametrize("name", NORMS)
def test_without_parameters(name):
    x, dy, _ = data()
    options = dict(scale=False) if name == "rms" else dict(scale=False, shift=False)
    norm = NORMS[name](**options)
    y, dx, *_ = functions(norm, x, dy)
    assert same_bits(norm(x), y)
    assert same_bits(norm.backward(dy), dx)
    assert norm.gamma is norm.beta is norm.dgamma is norm.dbeta is None
    assert name.startswith("batch") or norm.state_dict() == {}
    with pytest.raises(ValueError, match="^x: got"):
        norm(x[:, :3, :, :3])


@pytest.mark.parametrize("name", NORMS)
def test_dtype(name):
    x = data(1)[0].astype(float)
    norm = NORMS[name](dtype="float64")
    assert norm(x).dtype == norm.gamma.dtype == np.float64
    norm.backward(x)
    assert norm.dgamma.dtype == np.float64
    assert norm.dgamma.shape == norm.gamma.shape


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", CHANNELS)
def test_activation_and_residual(name, activation, mode):
    x, residual, dy = data()
    plain, norm = trained(name), trained(name, activation=activation)
    for each in (plain, norm):
        each.train(mode)
    for add in (None, residual):
        want = plain(x) if add is None else plain(x) + add
        want = np.where(want < 0, np.float32(0), want) if activation else want
        y = norm(x, residual=add)
        assert same_bits(y, want)
        shut = np.where(want > 0, dy, np.float32(0)) if activation else dy
        exact = plain.backward(shut)
        for out in (None, np.empty_like(x), dy.copy()):
            given = dy if out is None or not np.array_equal(out, dy) else out
            dx = norm.backward(given, out)
            if add is not None:
                dx, dresidual = dx
                assert same_bits(dresidual, shut)
            assert out is None or dx is out
            np.testing.assert_allclose(dx, exact, atol=1e-5)
            assert same_bits(norm.dgamma, plain.dgamma)
            assert same_bits(norm.dbeta, plain.dbeta)
    own = residual.copy()
    assert norm(x, own, residual=own) is own
    assert same_bits(own, y)


@pytest.mark.parametrize("name", NORMS)
def test_state(name):
    norm, x = trained(name), data(1)[0]
    norm(x)
    state = norm.state_dict()
    copies = NORMS[name](), pickle.loads(pickle.dumps(norm))
    copies[0].load_state_dict(state)
    for vector in state.values():
        if isinstance(vector, np.ndarray):
            vector += 1
    for copy in copies:
        assert repr(copy) == repr(norm)
        assert same_bits(copy.eval()(x), norm.eval()(x))
        with pytest.raises(RuntimeError, match="^backward"):
            NORMS[name]().backward(x)
    before = norm.state_dict()
    with pytest.raises(TypeError, match="^gamma: got None"):
        norm.load_state_dict(before | {"gamma": None})
    with pytest.raises(ValueError, match="^gamma: got shape"):
        norm.load_state_dict(before | {"gamma": np.ones(99)})
    with pytest.raises(ValueError, match="^state: got .*extra"):
        norm.load_state_dict(before | {"extra": 1})
    assert same_state(norm, before)


@pytest.mark.parametrize("norm", [bnfast.LayerNorm(2), bnfast.BatchNorm(2)], ids=repr)
@pytest.mark.parametrize("gamma", [[1, 2], np.ones(2, np.float16)], ids=["integers", "half"])
def test_state_after_parameters_of_other_types(norm, gamma):
    norm.gamma = gamma
    norm.load_state_dict(norm.state_dict() | {"gamma": [0.1, 0.25]})
    assert norm.gamma.tolist() == pytest.approx([0.1, 0.25], rel=1e-7)


def same_state(norm, state):
    return all(same_bits(np.asarray(value), np.asarray(state[key])) for key, value in norm.state_dict().items())


def test_repr():
    assert repr(bnfast.BatchNorm(3)) == (
        "BatchNorm(3, axis=1, eps=1e-05, momentum=0.9, unbiased=True, activation=None, scale=True, shift=True)"
    )
    assert repr(bnfast.GroupNorm(2, 4, activation="relu", shift=False)) == (
        "GroupNorm(2, 4, axis=1, eps=1e-05, activation='relu', scale=True, shift=False)"
    )
    assert repr(bnfast.RMSNorm(3)) == "RMSNorm((3,), eps=1e-05, scale=True)"


# ---- files ----


@pytest.mark.parametrize("kind", [str, lambda path: path, "stream"])
@pytest.mark.parametrize("name", NORMS)
def test_save_and_load(name, kind, tmp_path):
    norm, other = trained(name), NORMS[name]()
    if kind == "stream":
        file = io.BytesIO()
        norm.save(file)
        file.seek(0)
    else:
        file = kind(tmp_path / "state")
        NORMS[name]().save(file)
        norm.save(file)  # over the one that is there
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
    other.load(file)
    assert same_state(other, norm.state_dict())


def named(content):
    stream = io.BytesIO(content)
    stream.name = "state.npz"
    return stream


def test_a_truncated_or_damaged_file_changes_nothing():
    norm, other, fresh = (bnfast.BatchNorm(2, shift=False) for _ in range(3))
    norm(np.arange(20, dtype=np.float32).reshape(10, 2))
    norm.gamma[:] = 9
    norm.save(file := io.BytesIO())
    whole, before = file.getvalue(), other.state_dict()
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"state\.npz: not a state of BatchNorm\(2, "):
            other.load(named(whole[:length]))
    for at in range(len(whole)):
        fresh.load_state_dict(before)
        refused = None
        try:
            fresh.load(named(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]))
        except ValueError as error:
            refused = str(error)
        assert refused is None or "state.npz: not a state" in refused
        # Some bytes mean nothing: times, attributes.
        assert same_state(fresh, before if refused else norm.state_dict())
    assert same_state(other, before)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("something in the file was executed",)


def foreign(stream, what):
    match what:
        case "text":
            stream.write(b"gamma = 1\n")
        case "pickle":
            pickle.dump({"gamma": Evil()}, stream)
        case "objects":
            np.savez(stream, gamma=np.array([Evil()] * 6, object), beta=np.zeros(6))
        case "npy":
            np.save(stream, np.ones(6))
        case "other names":
            np.savez(stream, weight=np.ones(6), bias=np.ones(6))
        case "complex":
            np.savez(stream, gamma=np.ones(6, complex), beta=np.ones(6))
        case "another size":
            bnfast.LayerNorm(7).save(stream)
        case "another rank":
            bnfast.LayerNorm((1, 6)).save(stream)
        case "another norm":
            bnfast.BatchNorm(6).save(stream)


@pytest.mark.parametrize(
    "what",
    ["text", "pickle", "objects", "npy", "other names", "complex", "another size", "another rank", "another norm"],
)
def test_a_foreign_file_changes_nothing(what, tmp_path):
    path, norm = tmp_path / "state.npz", trained("layer")
    with open(path, "wb") as stream:
        foreign(stream, what)
    before = norm.state_dict()
    with pytest.raises(ValueError, match=r"state\.npz: not a state of LayerNorm\(\(6,\), "):
        norm.load(path)
    assert same_state(norm, before)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        bnfast.LayerNorm(3).load(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError):
        bnfast.LayerNorm(3).save(tmp_path / "nowhere" / "state.npz")


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path, norm = tmp_path / "state.npz", trained("layer")
    norm.save(path)
    path.chmod(0o640)
    norm.save(path)
    assert path.stat().st_mode & 0o777 == 0o640
    before = path.read_bytes()

    def half(stream, **state):
        stream.write(before[:100])
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="disk full"):
        norm.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bnfast.GroupNorm(3, 4), ValueError, "^groups: got 3, wants a divisor of 4"),
        (lambda: bnfast.GroupNorm(0, 4), ValueError, "^groups: got 0"),
        (lambda: bnfast.GroupNorm(-1, 4), ValueError, "^groups: got -1"),
        (lambda: bnfast.GroupNorm(1.5, 3), TypeError, "^groups: got 1.5"),
        (lambda: bnfast.InstanceNorm("3"), TypeError, "^channels: got '3'"),
        (lambda: bnfast.InstanceNorm(3, axis=0)(data(1)[0][:3]), ValueError, "^axis: got 0"),
        (lambda: bnfast.BatchNorm(3, activation="gelu"), ValueError, "^activation: got 'gelu'"),
        (lambda: bnfast.BatchNorm(4)(data(1)[0], residual=np.ones(3)), (ValueError, TypeError), "^residual: got"),
        (lambda: bnfast.BatchNorm(2, scale=False, shift=False)([[1.0], [2.0, 3.0]]), TypeError, "^x: got list"),
        (lambda: bnfast.LayerNorm(2)([[1.0], [2.0, 3.0]]), TypeError, "^x: got list"),
        (lambda: bnfast.BatchNorm(3).load_state_dict(None), TypeError, "^state: got NoneType"),
        (lambda: bnfast.BatchNorm(3).load_state_dict({1: 2, "a": 3}), ValueError, "^state: got .'1', 'a'., wants"),
        (lambda: bnfast.Moments(1 << 70, [1.0], [1.0]), ValueError, "^count: got 118"),
        (lambda: bnfast.Moments(2, [1.0], [-1.0]), ValueError, "^m2: got -1.0, wants 0 or more"),
        (lambda: bnfast.LayerNorm(()), ValueError, r"^shape: got \(\)"),
        (lambda: bnfast.LayerNorm((3, -1)), ValueError, "^shape: got -1"),
        (lambda: bnfast.LayerNorm(1 << 62), ValueError, "^shape: got 46.*, wants 0 to"),
        (lambda: bnfast.LayerNorm((1 << 40, 0, 1 << 40)), ValueError, "^shape: got .*, wants .* values at most"),
        (lambda: bnfast.LayerNorm((1,) * 65), ValueError, "^shape: got .*, wants 1 to 64 sizes"),
        (lambda: bnfast.LayerNorm(3.0), TypeError, "^shape: got 3.0"),
        (lambda: bnfast.LayerNorm(3, dtype=int), TypeError, "^dtype: got int64"),
        (lambda: bnfast.LayerNorm(3, dtype="foo"), TypeError, "^dtype: got foo, wants float32 or float64"),
        (lambda: bnfast.BatchNorm(3, dtype=None), TypeError, "^dtype: got None"),
        (lambda: bnfast.BatchNorm(4)(data(1)[0][:, :3]), ValueError, "^x: got 3 channels, wants 4"),
        (lambda: bnfast.BatchNorm(4).eval()(data(1)[0][:, :3]), ValueError, "^x: got 3 channels, wants 4"),
        (lambda: bnfast.GroupNorm(2, 6)(data(1)[0]), ValueError, "^x: got 4 channels, wants 6"),
        (lambda: bnfast.RMSNorm(3, eps=0), ValueError, "^eps: got 0"),
        (
            lambda: bnfast.LayerNorm(3)(np.ones((3, 4), np.float32)),
            ValueError,
            r"^x: got shape \(3, 4\), wants .*\(3,\)",
        ),
        (lambda: bnfast.LayerNorm((3, 4))(np.ones(4, np.float32)), ValueError, r"^x: got shape \(4,\)"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
