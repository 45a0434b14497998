"""Do the three consumers give the bits that Python's functions give? Run this where c_consumer and cython_consumer are
built; it prints how many results were compared.

float16 and bfloat16 are computed with in float32 and rounded once: what is expected of them is that, done to Python's
float32 results."""

import itertools
import threading

import c_consumer
import ctypes_consumer
import cython_consumer
import numpy as np

import bnfast
from bnfast import _kernels as kernels

CONSUMERS = c_consumer, cython_consumer, ctypes_consumer
FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = range(4)
BATCH, GROUP, LAYER, RMS = range(4)
# norm, samples, outer, channels, inner, groups; the last of each norm is large enough for two threads
SHAPES = [
    (BATCH, 1, 8, 16, 49, 0),
    (BATCH, 1, 392, 17, 1, 0),
    (BATCH, 1, 4, 24, 1600, 0),
    (GROUP, 4, 1, 12, 35, 3),
    (GROUP, 4, 35, 12, 1, 12),
    (GROUP, 4, 1600, 24, 1, 4),
    (LAYER, 1, 1, 60, 37, 0),
    (LAYER, 1, 1, 300, 600, 0),
    (RMS, 1, 1, 60, 37, 0),
    (RMS, 1, 1, 300, 600, 0),
]


def narrow(array, dtype):
    """Values to memory: in the type, or as the bits of the two types that have two bytes."""
    if dtype == FLOAT16:
        return np.asarray(array, np.float32).astype(np.float16).view(np.uint16)
    if dtype == BFLOAT16:
        bits = np.asarray(array, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.asarray(array, np.float64 if dtype == FLOAT64 else np.float32)


def widen(array, dtype):
    """And back, to what is computed with."""
    if dtype == FLOAT16:
        return array.view(np.float16).astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else array


class Case:
    """A forward pass and what belongs to it: inputs as in memory, and every result that is expected."""

    def __init__(self, dtype, shape, relu):
        norm, samples, *view, groups = shape
        points = norm in (LAYER, RMS)
        rng = np.random.default_rng(3)
        size, params = (samples, *view), view[2] if points else view[1]
        n = view[0] * view[2] * (view[1] // groups if norm == GROUP else 1)
        self.dtype, self.statistics = dtype, samples * groups if norm == GROUP else view[1]
        self.numbers = {"dtype": dtype, "param_dtype": int(dtype == FLOAT64), "norm": norm, "relu": relu, "eps": 1e-4}
        self.numbers |= {"samples": samples, "groups": groups, "outer": view[0], "channels": view[1]}
        self.numbers["inner"] = view[2]
        draw = lambda: narrow(rng.standard_normal(size) + 0.5, dtype)  # noqa: E731
        of_params = lambda: narrow(rng.standard_normal(params), FLOAT64 if dtype == FLOAT64 else FLOAT32)  # noqa: E731
        x, dy, residual, gamma, beta = draw(), draw(), draw() if relu else None, of_params(), of_params()
        if norm == RMS:
            beta = None

        def python(op, out=None, dy=None, mean=None, var=None, residual=None, y=None, dresidual=None):
            wide = [None if a is None else widen(a, dtype) for a in (x, dy, residual, y)]
            fused = {"relu": relu, "residual": wide[2], "y": wide[3], "dresidual": dresidual}
            return kernels.run(
                op,
                tuple(view),
                wide[0],
                out,
                out,
                1e-4,
                1,
                norm=norm,
                samples=samples,
                groups=groups,
                dy=wide[1],
                gamma=gamma,
                beta=beta,
                mean=mean,
                var=var,
                **(fused if op != kernels.MOMENTS else {}),
            )

        like = lambda: np.empty_like(widen(x, dtype))  # noqa: E731
        out, frozen, dx, dx_frozen, dresidual = (like() for _ in range(5))
        mean, m2 = python(kernels.FORWARD, out, residual=residual)
        y = narrow(out, dtype)
        given = {"x": x, "gamma": gamma, "beta": beta}
        self.passes = {
            "moments": ({"x": x}, dict(zip(("mean", "m2"), python(kernels.MOMENTS), strict=True))),
            "forward": ({**given, "residual": residual}, {"out": y, "mean": mean, "m2": m2}),
        }
        gate = {"y": y} if relu else {}
        back = python(kernels.BACKWARD, dx, dy, mean, m2, dresidual=dresidual if relu else None, **gate)
        results = {"out": narrow(dx, dtype), "dgamma": back[0], "dbeta": back[1]}
        results |= {"dresidual": narrow(dresidual, dtype)} if relu else {}
        if norm == RMS:
            del results["dbeta"]
        self.passes["backward"] = {**given, **gate, "dy": dy, "mean": mean, "m2": m2}, results
        if norm == BATCH:
            var = m2 / n
            python(kernels.NORMALIZE, frozen, mean=mean, var=var, residual=residual)
            given |= {"mean": mean, "var": var}
            self.passes["normalize"] = {**given, "residual": residual}, {"out": narrow(frozen, dtype)}
            back = python(kernels.NORMALIZE_BACKWARD, dx_frozen, dy, mean, var)
            results = {"out": narrow(dx_frozen, dtype), "dgamma": back[0], "dbeta": back[1]}
            self.passes["normalize_backward"] = {**given, "dy": dy}, results

    def arrays(self, what):
        """(arrays of a call, those of them that it writes)"""
        given, results = self.passes[what]
        new = {name: np.full_like(array, 77) for name, array in results.items()}
        return {**given, **new}, new

    def check(self, what, new, *about):
        for name, array in self.passes[what][1].items():
            assert array.tobytes() == new[name].tobytes(), (what, name, self.numbers, *about)
        return len(new)


def compare(case):
    """How many results were the same; AssertionError at the first that is not."""
    count = 0
    for what, consumer, threads in itertools.product(case.passes, CONSUMERS, (1, 2)):
        arrays, new = case.arrays(what)
        consumer.run(what, {**case.numbers, "threads": threads}, arrays)
        count += case.check(what, new, consumer, threads)
    for what in case.passes:  # from a thread that Python started, and from several of OpenMP at once
        arrays, new = case.arrays(what)
        thread = threading.Thread(target=cython_consumer.run, args=(what, {**case.numbers, "threads": 2}, arrays))
        thread.start()
        thread.join()
        count += case.check(what, new, "a thread")
        each = [case.arrays(what) for _ in range(5)]
        c_consumer.run_together(what, {**case.numbers, "threads": 2}, [arrays for arrays, _ in each])
        count += sum(case.check(what, new, "OpenMP") for _, new in each)
    return count


def compare_merge():
    rng = np.random.default_rng(5)
    a, b = (bnfast.moments(rng.standard_normal((n, 7)) + n) for n in (5, 11))
    expected = a.merge(b)
    for consumer in CONSUMERS:
        mean, m2 = a.mean.copy(), a.m2.copy()
        consumer.merge(a.count, mean, m2, b.count, b.mean, b.m2)
        assert mean.tobytes() == expected.mean.tobytes(), consumer
        assert m2.tobytes() == expected.m2.tobytes(), consumer
    return 2 * len(CONSUMERS)


def compare_public():
    """The functions that people call are the kernels that everything else here is compared with."""
    x = np.random.default_rng(7).standard_normal((8, 6, 5, 7), dtype=np.float32)
    y, moments = bnfast.batch_norm(x)
    out, mean, m2 = np.empty_like(x), np.empty(6), np.empty(6)
    cython_consumer.forward(x.reshape(-1), out.reshape(-1), 8, 6, 35, mean, m2)
    assert (y.tobytes(), moments.mean.tobytes(), moments.m2.tobytes()) == (out.tobytes(), mean.tobytes(), m2.tobytes())
    y, moments = bnfast.group_norm(x, 3)
    mean, m2 = np.empty((8, 3)), np.empty((8, 3))
    numbers = {"norm": GROUP, "samples": 8, "outer": 1, "channels": 6, "inner": 35, "groups": 3}
    c_consumer.run("forward", numbers, {"x": x, "out": out, "mean": mean, "m2": m2})
    assert (y.tobytes(), moments.mean.tobytes(), moments.m2.tobytes()) == (out.tobytes(), mean.tobytes(), m2.tobytes())
    return 6


def compare_mask():
    """A padded batch, as mask= takes it."""
    rng = np.random.default_rng(9)
    x, dy = (rng.standard_normal((6, 5, 40), dtype=np.float32) for _ in range(2))
    mask = np.arange(40) < rng.integers(1, 41, (6, 1))
    y, moments = bnfast.batch_norm(x, mask=mask)
    gradients = bnfast.batch_norm_backward(dy, x, moments, mask=mask)
    statistics = {"mean": moments.mean, "m2": moments.m2}
    numbers, count = {"outer": 6, "channels": 5, "inner": 40}, 0
    passes = (
        ("forward", {}, {"out": y, **statistics}),
        ("backward", {"dy": dy, **statistics}, dict(zip(("out", "dgamma", "dbeta"), gradients, strict=True))),
    )
    for consumer, (what, given, expected) in itertools.product(CONSUMERS, passes):
        new = {name: np.full_like(array, 77) for name, array in expected.items()}
        consumer.run(what, numbers, {"x": x, "mask": mask, **given, **new})
        for name, array in expected.items():
            assert array.tobytes() == new[name].tobytes(), (what, name, "mask")
        count += len(new)
    return count


def refused():
    """Every consumer turns a status into the library's words."""
    for consumer in CONSUMERS:
        for numbers, words in (({"eps": 0.0}, "eps: wants"), ({"groups": 2, "norm": GROUP}, "groups: do not divide")):
            shape = {"outer": 2, "channels": 3, "inner": 4}
            try:
                consumer.run("forward", {**shape, **numbers}, {})
                said = "nothing"
            except ValueError as error:
                said = str(error)
            assert words in said, (consumer, numbers, said)


if __name__ == "__main__":
    refused()
    count = compare_merge() + compare_public() + compare_mask()
    for dtype, shape, relu in itertools.product(range(4), SHAPES, (0, 1)):
        if not (relu and shape[0] in (LAYER, RMS)):
            count += compare(Case(dtype, shape, relu))
    assert ctypes_consumer.api.threads(150_000, 2) == 2, "no two threads here"
    print(f"{count} results compared with {bnfast.__file__}")
