"""The kernel tests again on every other ISA of this machine, and written past the caches: the same bits from all."""

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from zoo import CASES, HARD, hard, parameters

import bnfast

pytestmark = pytest.mark.thread_unsafe(reason="processes of its own, each a minute")

HERE = Path(__file__).parent
NOW = bnfast.show_config("dicts")["isa"]
ALL = bnfast.show_config("dicts")["isas"]
SUBJECTS = ("accuracy", "reproducible", "layers", "half", "fused")
PAST = ("accuracy", "semantics", "layers", "groups", "half", "fused")


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        cwd=HERE.parent,
    )


def passes(subjects, **environment):
    files = [f"tests/test_{name}.py" for name in subjects]
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("isa", [name for name in ALL if name != NOW])
def test_kernels_on(isa):
    passes(SUBJECTS, BNFAST_ISA=isa)


def test_kernels_past_the_caches():
    passes(PAST, BNFAST_CACHE="0")


@functools.cache
def digest():
    """A digest of every result over the zoo, on the ISA of this process."""
    sha = hashlib.sha256()
    for shape, axis in CASES:
        gamma, beta = parameters(shape[axis])
        for name in HARD:
            x, dy = hard(name, shape, axis), hard("mean 0", shape, axis, seed=2)
            for dtype in (np.float32, np.float64):
                a, b = x.astype(dtype), dy.astype(dtype)
                y, moments = bnfast.batch_norm(a, gamma, beta, axis=axis)
                results = [y, moments.mean, moments.m2, *bnfast.batch_norm_backward(b, a, moments, gamma, axis=axis)]
                results += [bnfast.normalize(a, moments.mean, moments.var, gamma, beta, axis=axis)]
                results += bnfast.normalize_backward(b, a, moments.mean, moments.var, gamma, axis=axis)
                point, _ = parameters(shape[-1])
                y, moments = bnfast.layer_norm(a, point, point)
                results += [y, moments.mean, moments.m2, *bnfast.layer_norm_backward(b, a, moments, point)]
                y, moments = bnfast.rms_norm(a, point)
                results += [y, moments.m2, *bnfast.rms_norm_backward(b, a, moments, point)]
                for result in results:
                    sha.update(result.tobytes())
    x, dy = hard("mean 1e4", (9, 40, 5, 5), 1), hard("mean 0", (9, 40, 5, 5), 1, seed=2)
    for groups in (1, 2, 40):
        y, moments = bnfast.group_norm(x, groups, *parameters(40))
        for result in [y, moments.m2, *bnfast.group_norm_backward(dy, x, moments, parameters(40)[0])]:
            sha.update(result.tobytes())
    return sha.hexdigest()


def digest_with(**environment):
    """The digest of a process of its own, and its ISA."""
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_isa; print(test_isa.digest(), test_isa.NOW)"
    done = run("-c", script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_isa_with_fused_arithmetic_gives_the_same_bits():
    digests = {}
    for isa in ALL:
        digests[isa], used = digest_with(BNFAST_ISA=isa)
        assert used == isa
    assert digests[NOW] == digest()
    digests.pop("generic")
    assert len(set(digests.values())) <= 1


@pytest.mark.parametrize("cache", ["0", "3000", str((1 << 63) - 1)])
def test_the_same_bits_whatever_the_caches_keep(cache):
    assert digest_with(BNFAST_CACHE=cache) == [digest(), NOW]


@pytest.mark.parametrize("cache", ["much", "-1", "1e6", str(1 << 63)])
def test_what_is_no_size_of_a_cache_is_an_error(cache):
    done = run("-c", "import bnfast", BNFAST_CACHE=cache)
    assert f"ImportError: BNFAST_CACHE={cache!r}: wants a number of bytes" in done.stderr


@pytest.mark.parametrize("name", ["BNFAST_ISA", "BNFAST_CACHE"])
def test_an_empty_choice_is_none(name):
    assert run("-c", "import bnfast", **{name: ""}).returncode == 0


@pytest.mark.parametrize("name", ["avx1024", " ", "AVX2", "\udcff"])
def test_an_unknown_isa_is_an_error(name):
    done = run("-c", "import bnfast", BNFAST_ISA=name)
    assert done.returncode != 0
    assert f"ImportError: BNFAST_ISA={name!r}: this CPU has" in done.stderr
