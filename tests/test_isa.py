"""The kernel tests again on every other ISA of this machine, and the same bits from all of them."""

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


def run(isa, *command):
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "BNFAST_ISA": isa},
        capture_output=True,
        text=True,
        timeout=900,
        cwd=HERE.parent,
    )


@pytest.mark.parametrize("isa", [name for name in ALL if name != NOW])
def test_kernels_on(isa):
    done = run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/test_{name}.py" for name in SUBJECTS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


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


def test_every_isa_with_fused_arithmetic_gives_the_same_bits():
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_isa; print(test_isa.digest(), test_isa.NOW)"
    digests = {}
    for isa in ALL:
        done = run(isa, "-c", script)
        assert done.returncode == 0, done.stderr
        digests[isa], used = done.stdout.split()
        assert used == isa
    assert digests[NOW] == digest()
    digests.pop("generic")
    assert len(set(digests.values())) <= 1


def test_an_empty_isa_is_none():
    assert run("", "-c", "import bnfast").returncode == 0


@pytest.mark.parametrize("name", ["avx1024", " ", "AVX2", "\udcff"])
def test_an_unknown_isa_is_an_error(name):
    done = run(name, "-c", "import bnfast")
    assert done.returncode != 0
    assert f"ImportError: BNFAST_ISA={name!r}: this CPU has" in done.stderr
