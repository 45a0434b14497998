"""What is measured: every contestant computes the same, and the command shows it."""

import re
import subprocess
import sys

import numpy as np
import pytest

from bnfast import _measure as measure

FORWARD = ("forward", "inference")


def results(call):
    """The arrays of one call, by value, in the order bnfast gives them."""
    done = call()
    return [np.asarray(a).copy() for a in (done if isinstance(done, tuple) else (done,))]


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("name", [name for name in measure.PASSES if name != "moments"])
@pytest.mark.parametrize("peer", list(measure.PEERS))
def test_peers_compute_the_same(peer, name, axis):
    pytest.importorskip(measure.PEERS[peer])
    case = measure.Case((4, 5, 6, 7), axis, num_threads=1)
    ours = results(lambda: case.bnfast(name)()[:1] if name == "forward" else case.bnfast(name)())
    theirs = results(getattr(case, peer.lower())(name))
    if peer == "PyTorch":
        theirs[0] = np.moveaxis(theirs[0], 1, axis)
    for a, b in zip(ours[:1] if name in FORWARD else ours, theirs, strict=False):
        np.testing.assert_allclose(a.ravel(), b.ravel(), rtol=1e-4, atol=1e-4)


def test_moments_of_the_formula():
    case = measure.Case((4, 5, 6, 7))
    ours, (mean, var) = case.bnfast("moments")(), case.numpy("moments")()
    np.testing.assert_allclose(ours.mean, mean.ravel(), atol=1e-6)
    np.testing.assert_allclose(ours.var, var.ravel(), rtol=1e-5)


def test_the_limit_moves_as_many_bytes(monkeypatch):
    moved = []
    monkeypatch.setattr(measure, "STREAM", 1 << 12)  # in many pieces
    monkeypatch.setattr(measure.np, "copyto", lambda target, source: moved.append(target.nbytes + source.nbytes))
    case = measure.Case((4, 5, 6, 70), num_threads=3)
    for name, arrays in measure.ARRAYS_MOVED.items():
        for way in case.limit(name):
            moved.clear()
            way()
            assert sum(moved) == arrays * case.x.nbytes


def test_bench(tmp_path):
    chart = tmp_path / "chart.png"
    options = ["--seconds", "0.01", "--threads", "1", "--dtype", "float64", "--axis", "-1", "--plot", str(chart)]
    done = subprocess.run(
        [sys.executable, "-m", "bnfast", "bench", "4x8x6x6", "16x5", *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"(forward|inference|backward) .*%.*x$", done.stdout, re.M)) == 6
    assert chart.read_bytes()[:4] == b"\x89PNG"
