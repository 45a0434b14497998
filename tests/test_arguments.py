"""Bad input gets a clear error that names the argument, and nothing is written."""

import numpy as np
import pytest

import bnfast

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
V = np.ones(3, np.float32)
M = bnfast.moments(X)


def read_only():
    out = np.zeros_like(X)
    out.flags.writeable = False
    return out


BAD_FORWARD = [
    (dict(x=V), ValueError, r"^x: got shape \(3,\), wants at least 2 dimensions"),
    (dict(x=np.float32(1)), ValueError, r"^x: got shape \(\)"),
    (dict(x=X.astype(object)), TypeError, "^x: got dtype object, wants float16, bfloat16, float32 or float64"),
    (dict(x=X.astype(int)), TypeError, "^x: got dtype int64"),
    (dict(x=X.astype(complex)), TypeError, "^x: got dtype complex128"),
    (dict(x=[[1.0, 2.0], [3.0]]), TypeError, "^x: got list"),
    (dict(x=np.ma.masked_array(X)), TypeError, "^x: got a MaskedArray"),
    (dict(x=np.ones((2, 3)).view(np.matrix)), TypeError, "^x: got a matrix"),
    (dict(gamma=np.ones(4, np.float32)), ValueError, r"^gamma: got shape \(4,\), wants \(3,\)"),
    (dict(gamma=np.ones((1, 3), np.float32)), ValueError, r"^gamma: got shape \(1, 3\), wants \(3,\)"),
    (dict(gamma=1.0), ValueError, r"^gamma: got shape \(\), wants \(3,\)"),
    (dict(gamma=V.astype(complex)), TypeError, "^gamma: got complex128"),
    (dict(gamma=["a", "b", "c"]), TypeError, "^gamma: got"),
    (dict(beta=np.ones(2)), ValueError, r"^beta: got shape \(2,\), wants \(3,\)"),
    (dict(eps=0), ValueError, "^eps: got 0.0, wants a finite number above 0"),
    (dict(eps=-1e-5), ValueError, "^eps: got -1e-05"),
    (dict(eps=float("nan")), ValueError, "^eps: got nan"),
    (dict(eps=float("inf")), ValueError, "^eps: got inf"),
    (dict(eps="small"), TypeError, "^eps: got 'small'"),
    (dict(eps=None), TypeError, "^eps: got None"),
    (dict(eps="1e-5"), TypeError, "^eps: got '1e-5'"),
    (dict(eps=10**400), TypeError, "^eps: got 1000"),
    (dict(axis=3), ValueError, "^axis: got 3, wants -3 to 2"),
    (dict(axis=-4), ValueError, "^axis: got -4, wants -3 to 2"),
    (dict(axis=1.0), TypeError, "^axis: got 1.0, wants an integer"),
    (dict(axis=None), TypeError, "^axis: got None"),
    (dict(axis=[1]), TypeError, r"^axis: got \[1\], wants an integer"),
    (dict(activation=np.array(["relu", "relu"])), ValueError, "^activation: got array"),
    (dict(mask=[[True], [True, False]]), TypeError, "^mask: got list"),
    (dict(num_threads=0), ValueError, "^num_threads: got 0, wants 1 to"),
    (dict(num_threads=-1), ValueError, "^num_threads: got -1, wants 1 to"),
    (dict(num_threads=1 << 40), ValueError, "^num_threads: got 1099511627776"),
    (dict(num_threads=1.5), TypeError, "^num_threads: got 1.5"),
    (dict(out=np.zeros((2, 3, 5), np.float32)), ValueError, r"^out: got shape \(2, 3, 5\)"),
    (dict(out=np.zeros((2, 3, 4))), ValueError, "^out: got shape .* dtype float64"),
    (dict(out=np.zeros((2, 3, 4), ">f8")), ValueError, "^out: got shape .* dtype >f8"),
    (dict(out=read_only()), ValueError, "^out: got a read-only array"),
    (dict(out=X.tolist()), TypeError, "^out: got list, wants an ndarray"),
]
BAD_TRAIN = [
    (dict(x=np.ones((1, 3), np.float32)), ValueError, r"^x: got one value a channel \(shape \(1, 3\)\)"),
    (dict(x=np.ones((1, 3, 1, 1), np.float32)), ValueError, "^x: got one value a channel"),
    (dict(x=np.ones((1, 1), np.float32), gamma=[1.0], beta=[1.0]), ValueError, "^x: got one value a channel"),
]
BAD_STATISTICS = [
    (dict(var=np.array([1, -1e-9, 1])), ValueError, "^var: got a negative variance, -1e-09"),
    (dict(var=np.array([1, -2, 1], np.float32)), ValueError, "^var: got a negative variance"),
    (dict(var=np.ones(4)), ValueError, r"^var: got shape \(4,\), wants \(3,\)"),
    (dict(mean=np.ones((3, 1))), ValueError, r"^mean: got shape \(3, 1\)"),
    (dict(mean=None), TypeError, "^mean: got None"),
    (dict(var=None), TypeError, "^var: got None"),
]
BAD_BACKWARD = [
    (dict(dy=X[:1]), ValueError, r"^dy: got shape \(1, 3, 4\) .* wants those of x"),
    (dict(dy=X.astype(np.float64)), ValueError, "^dy: got .* dtype float64"),
    (dict(dy=X.astype(object)), TypeError, "^dy: got dtype object"),
    (
        dict(moments=bnfast.moments(X[:, :2])),
        ValueError,
        r"^moments: got \(2,\) statistics of 8 values, wants \(3,\) of 8",
    ),
    (
        dict(moments=bnfast.moments(X[:1])),
        ValueError,
        r"^moments: got \(3,\) statistics of 4 values, wants \(3,\) of 8",
    ),
    (dict(moments=bnfast.group_norm(X, 1)[1]), ValueError, r"^moments: got \(2, 1\) statistics of 12 values"),
    (dict(moments=(V, V)), TypeError, "^moments: got tuple"),
    (dict(gamma=np.ones(4)), ValueError, r"^gamma: got shape \(4,\)"),
]


def without(kind):
    return [case for case in BAD_FORWARD if "beta" not in case[0]] if kind == "backward" else BAD_FORWARD


def check(function, given, error, message, arguments):
    """The call fails with that message and leaves `out` as it was."""
    arguments = {"out": np.full_like(X, 7), **arguments, **given}
    out = arguments["out"]
    before = np.array(out)
    with pytest.raises(error, match=message):
        function(**arguments)
    assert np.array_equal(out, before)


@pytest.mark.parametrize(("given", "error", "message"), BAD_FORWARD + BAD_TRAIN)
def test_batch_norm(given, error, message):
    check(bnfast.batch_norm, given, error, message, dict(x=X, gamma=V, beta=V))


@pytest.mark.parametrize(("given", "error", "message"), BAD_FORWARD + BAD_STATISTICS)
def test_normalize(given, error, message):
    check(bnfast.normalize, given, error, message, dict(x=X, mean=V, var=V, gamma=V, beta=V))


@pytest.mark.parametrize(("given", "error", "message"), without("backward") + BAD_BACKWARD)
def test_batch_norm_backward(given, error, message):
    given = {"dy": given["x"], **given} if "x" in given else given
    message = message.replace("^x:", "^(x|dy):")
    check(bnfast.batch_norm_backward, given, error, message, dict(dy=X, x=X, moments=M, gamma=V))


@pytest.mark.parametrize(("given", "error", "message"), without("backward") + BAD_BACKWARD[:3] + BAD_STATISTICS)
def test_normalize_backward(given, error, message):
    given = {"dy": given["x"], **given} if "x" in given else given
    message = message.replace("^x:", "^(x|dy):")
    check(bnfast.normalize_backward, given, error, message, dict(dy=X, x=X, mean=V, var=V, gamma=V))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(channels=-1), ValueError, "^channels: got -1"),
        (dict(channels=10**30), ValueError, "^channels: got 1000"),
        (dict(channels=2.5), TypeError, "channels.*got 2.5"),
        (dict(momentum=-0.1), ValueError, "^momentum: got -0.1, wants 0 to 1"),
        (dict(momentum=1.1), ValueError, "^momentum: got 1.1"),
        (dict(momentum=float("nan")), ValueError, "^momentum: got nan"),
        (dict(momentum="slow"), TypeError, "^momentum: got 'slow'"),
        (dict(momentum=10**400), TypeError, "^momentum: got 1000"),
        (dict(eps=0), ValueError, "^eps: got 0.0"),
        (dict(dtype="float16"), TypeError, "^dtype: got float16, wants float32 or float64"),
    ],
)
def test_module(given, error, message):
    with pytest.raises(error, match=message):
        bnfast.BatchNorm(**{"channels": 3, **given})


def test_the_momentum_is_checked_when_it_is_set():
    bn = bnfast.BatchNorm(3)
    for bad in (5, "abc"):
        with pytest.raises((ValueError, TypeError), match=f"^momentum: got '?{bad}"):
            bn.momentum = bad
    assert bn.momentum == 0.9


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [(0, ValueError, "^count: got 0"), (-1, ValueError, "^count: got -1"), ("2", TypeError, "^count: got '2'")],
)
def test_set_num_threads(count, error, message):
    before = bnfast.get_num_threads()
    with pytest.raises(error, match=message):
        bnfast.set_num_threads(count)
    assert bnfast.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, [0.0], [0.0]), ValueError, "^count: got -1"),
        ((1.5, [0.0], [0.0]), TypeError, "^count: got 1.5"),
        ((1, [0.0, 1.0], [0.0]), ValueError, "^m2: got shape"),
        ((1, [[0.0]], [[0.0]]), ValueError, "^m2: got shape"),
        ((1, ["a"], [0.0]), TypeError, "^mean: got .*, wants real numbers"),
        ((1, [0.0], [None]), TypeError, "^m2: got .*, wants real numbers"),
        ((1, [0.0], [[0.0], [0.0, 1.0]]), TypeError, "^m2: got list, wants an array"),
    ],
)
def test_moments(arguments, error, message):
    with pytest.raises(error, match=message):
        bnfast.Moments(*arguments)


def test_moments_of_another_size_than_they_had():
    moments = bnfast.moments(X)
    moments.m2.resize(1, refcheck=False)
    with pytest.raises(ValueError, match="^moments: got"):
        bnfast.batch_norm_backward(X, X, moments)
    with pytest.raises(ValueError, match="^other: got"):
        M.merge(moments)


def test_merge():
    with pytest.raises(TypeError, match="^other: got tuple"):
        M.merge((1, V, V))
    with pytest.raises(ValueError, match=r"^other: got statistics of shape \(2,\), wants \(3,\)"):
        M.merge(bnfast.moments(X[:, :2]))
    many = bnfast.Moments(1 << 62, V, V)
    with pytest.raises(ValueError, match="^other: got 4611686018427387904 values beside"):
        many.merge(many)
