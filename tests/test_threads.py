"""One policy for threads, and no hanging child after a fork."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

import bnfast


def child(code, **env):
    """Run Python code in a fresh process; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_openmp = pytest.mark.skipif(not bnfast.show_config("dicts")["openmp"], reason="built without OpenMP")


@needs_openmp
def test_omp_num_threads_and_set_num_threads():
    code = "import bnfast; print(bnfast.get_num_threads()); bnfast.set_num_threads(5); print(bnfast.get_num_threads());"
    code += "bnfast.set_num_threads(None); print(bnfast.get_num_threads())"
    assert child(code, OMP_NUM_THREADS="3").split() == ["3", "5", "3"]


@needs_openmp
def test_threadpoolctl():
    code = "import bnfast, threadpoolctl\nwith threadpoolctl.threadpool_limits(1): print(bnfast.get_num_threads())"
    assert child(code, OMP_NUM_THREADS="3") == "1"


def test_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import bnfast; print(bnfast.get_num_threads())"
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr


FORK = """
import os, signal
import numpy as np
{before}
import bnfast
x = np.random.default_rng(0).standard_normal((32, 64, 28, 28)).astype(np.float32)
y = bnfast.batch_norm(x, num_threads=2)[0]
if os.fork() == 0:
    signal.alarm(20)
    same = all(np.array_equal(bnfast.batch_norm(x, num_threads=2)[0], y) for _ in range(20))
    os._exit(0 if same else 1)
assert np.array_equal(bnfast.batch_norm(x, num_threads=2)[0], y)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_does_not_hang():
    assert child(FORK.format(before=""), OMP_NUM_THREADS="2") == "0"


def test_first_import_in_a_forked_child():
    code = """
import os, signal
if os.fork() == 0:
    signal.alarm(20)
    import numpy as np, bnfast
    bnfast.batch_norm(np.ones((64, 64, 64), np.float32), num_threads=2)
    os._exit(bnfast.get_num_threads())
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert child(code, OMP_NUM_THREADS="2") == "1"


def _double(n):
    x = np.random.default_rng(n).standard_normal((16, 32, 28, 28)).astype(np.float32)
    return float(bnfast.batch_norm(x, num_threads=2)[1].m2.sum())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_pool():
    wanted = [_double(n) for n in range(8)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_double, range(8)).get(timeout=60) == wanted


@needs_openmp
def test_a_forked_child_has_its_threads_under_libgomp():
    if "libgomp" not in bnfast.show_config("dicts")["runtime"]:
        pytest.skip("another OpenMP runtime")
    code = FORK.format(before="").replace("os._exit(0 if same else 1)", "os._exit(10 + bnfast.get_num_threads())")
    assert child(code, OMP_NUM_THREADS="2") == "12"
