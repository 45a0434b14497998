"""Outputs that leave their memory to the next ones, what happens when there is none left, and that nothing leaks."""

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import bnfast

pytestmark = pytest.mark.thread_unsafe(reason="settings of the process, forks, memory limits")

SHAPE = (8, 64, 40, 40)  # 3.3 MB


@pytest.fixture(autouse=True)
def stock():
    """A limit of 64 MiB, and nothing kept."""
    before = bnfast.show_config("dicts")["recycled_limit"]
    bnfast.set_recycled_memory(64 << 20)
    bnfast.release_memory()
    yield
    bnfast.set_recycled_memory(before)
    bnfast.release_memory()


def held():
    return bnfast.show_config("dicts")["recycled_bytes"]


def data(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_memory_comes_back():
    x = data()
    y, _ = bnfast.batch_norm(x)
    assert y.flags.owndata
    assert held() == 0
    where, wanted = y.ctypes.data, y.copy()
    del y
    assert held() >= x.nbytes
    again, _ = bnfast.batch_norm(x)
    assert again.ctypes.data == where
    assert held() == 0
    np.testing.assert_array_equal(again, wanted)


def test_a_view_keeps_its_memory():
    x = data()
    y, _ = bnfast.batch_norm(x)
    view, wanted = y[2, 3], y[2, 3].copy()
    del y
    assert held() == 0
    bnfast.batch_norm(data(1))
    np.testing.assert_array_equal(view, wanted)
    del view
    assert held() > 0


def test_the_limit_holds():
    x = data()
    outputs = [bnfast.batch_norm(x)[0] for _ in range(40)]
    outputs.clear()
    assert x.nbytes < held() <= 64 << 20
    bnfast.set_recycled_memory(2 * x.nbytes)
    assert held() <= 2 * x.nbytes
    bnfast.set_recycled_memory(0)
    assert held() == 0
    del outputs
    bnfast.batch_norm(x)
    assert held() == 0


def test_a_new_limit_keeps_what_fits():
    outputs = [bnfast.batch_norm(data(shape=(1, 16, 128, 128)))[0] for _ in range(40)]
    outputs.clear()
    kept = held()
    bnfast.set_recycled_memory(64 << 20)
    assert held() == kept >= 32 << 20


def test_many_sizes_push_out_the_oldest():
    for n in range(1, 50):
        address = bnfast.batch_norm(data(shape=(n, 16, 128, 128)))[0].ctypes.data
    assert 0 < held() <= 64 << 20
    assert bnfast.batch_norm(data(shape=(49, 16, 128, 128)))[0].ctypes.data == address


def test_an_output_over_the_limit_pushes_nothing_out():
    bnfast.set_recycled_memory(8 << 20)
    bnfast.batch_norm(data(shape=(4, 16, 128, 128)))
    kept = held()
    bnfast.batch_norm(data(shape=(40, 16, 128, 128)))
    assert held() == kept > 0


def test_small_outputs_are_left_to_numpy():
    bnfast.batch_norm(data(shape=(8, 16, 8, 8)))
    assert held() == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_pass_and_dtype(dtype):
    x, dy = data().astype(dtype), data(1).astype(dtype)
    assert x.nbytes > 1 << 20
    m = bnfast.moments(x)
    for call in (
        lambda: bnfast.normalize(x, m.mean, m.var),
        lambda: bnfast.batch_norm_backward(dy, x, m)[0],
        lambda: bnfast.normalize_backward(dy, x, m.mean, m.var)[0],
    ):
        bnfast.release_memory()
        first = call().copy()
        assert held() >= x.nbytes
        np.testing.assert_array_equal(call(), first)


def test_resize():
    x = data()
    y, _ = bnfast.batch_norm(x)
    wanted = y.copy()
    y.resize((16, *SHAPE[1:]), refcheck=False)
    np.testing.assert_array_equal(y[:8], wanted)
    assert not y[8:].any()
    y.resize(100, refcheck=False)
    np.testing.assert_array_equal(y, wanted.ravel()[:100])
    del y
    assert held() > 0


def test_tracemalloc_sees_the_memory():
    x = data()
    bnfast.batch_norm(x)
    tracemalloc.start()
    try:
        y, _ = bnfast.batch_norm(x)
        assert tracemalloc.get_traced_memory()[0] >= x.nbytes
        del y
        assert tracemalloc.get_traced_memory()[0] < x.nbytes
    finally:
        tracemalloc.stop()


def test_threads():
    x = [data(seed) for seed in range(4)]
    wanted = [bnfast.batch_norm(a)[0] for a in x]
    wrong = []

    def work(i):
        for _ in range(100):
            y, _ = bnfast.batch_norm(x[i], num_threads=1)
            if not np.array_equal(y, wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert held() <= 64 << 20


@pytest.mark.parametrize(
    ("limit", "error"), [(-1, ValueError), (1 << 64, ValueError), ("1", TypeError), (1.5, TypeError)]
)
def test_a_bad_limit(limit, error):
    with pytest.raises(error, match="limit: got"):
        bnfast.set_recycled_memory(limit)


def python(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


PROGRAM = """
import numpy as np, bnfast
x = np.ones((8, 64, 40, 40), np.float32)
bnfast.batch_norm(x)
print(bnfast.show_config("dicts")["recycled_bytes"] // x.nbytes)
"""


@pytest.mark.parametrize(("value", "kept"), [("0", "0"), ("100000000", "1"), ("1000", "0")])
def test_the_environment_sets_the_limit(value, kept):
    done = python(PROGRAM, BNFAST_RECYCLE=value)
    assert (done.stdout.strip(), done.stderr) == (kept, "")


@pytest.mark.parametrize("value", ["much", "-1", str(1 << 64)])
def test_a_bad_environment(value):
    done = python(PROGRAM, BNFAST_RECYCLE=value)
    assert f"ImportError: BNFAST_RECYCLE={value!r}: wants a number of bytes" in done.stderr


def test_an_empty_environment():
    assert python(PROGRAM, BNFAST_RECYCLE="").returncode == 0


def test_a_forked_child_and_the_end_of_the_interpreter():
    script = """
import os, threading, numpy as np, bnfast
x = np.ones((8, 64, 40, 40), np.float32)
stop = threading.Event()
def work():
    while not stop.is_set():
        bnfast.batch_norm(x, num_threads=1)
worker = threading.Thread(target=work)
worker.start()
for _ in range(20):
    pid = os.fork()
    if not pid:
        keep = [bnfast.batch_norm(x, num_threads=1)[0] for _ in range(3)]
        os._exit(0 if not keep[2].any() else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
worker.join()
keep = bnfast.batch_norm(x)[0]  # freed after the modules
print("done")
"""
    done = python("import warnings; warnings.simplefilter('ignore')\n" + script)
    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr


def test_when_memory_runs_out_what_is_kept_is_given_back():
    script = """
import resource, numpy as np, bnfast
x = np.ones((16, 64, 100, 100), np.float32)  # 41 MB
y = np.ones((19, 64, 100, 100), np.float32)
bnfast.set_recycled_memory(1 << 30)
bnfast.batch_norm(x, num_threads=1)
kept = bnfast.show_config("dicts")["recycled_bytes"]
assert kept >= x.nbytes
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + y.nbytes // 2,) * 2)
z = bnfast.batch_norm(y, num_threads=1)[0]  # fits only where the kept block was
assert bnfast.show_config("dicts")["recycled_bytes"] == 0
try:
    bnfast.batch_norm(y, num_threads=1)
except MemoryError:
    del z
    assert not bnfast.batch_norm(y, num_threads=1)[0].any()
    print("done")
"""
    done = python(script)
    assert (done.stdout.strip(), done.stderr) == ("done", "")


# What there is to allocate: an output, a copy of a crooked input, a place beside a crooked or overlapping output,
# another gradient, and partial sums.
SHORT = """
import resource, numpy as np, bnfast
bnfast.set_recycled_memory(0)
bnfast.set_num_threads(1)
rng = np.random.default_rng(0)
x = rng.standard_normal((16, 64, 50, 50), dtype=np.float32)  # 10 MB
crooked, out, flat = x[::-1], x * 0 + 7, rng.standard_normal((2, 1_000_000), dtype=np.float32)
crooked_out, flat_out = (x * 0 + 7)[:, ::-1], flat * 0 + 7
both = np.zeros(x.size + 64, np.float32)
shifted = both[16:-48].reshape(x.shape)
shifted[...] = x
m, m_flat, zeros, ones = bnfast.moments(x), bnfast.moments(flat), np.zeros(64), np.ones(64)
bn, frozen = bnfast.BatchNorm(64), bnfast.BatchNorm(64).eval()
bn(x), frozen(x), bn.backward(x), frozen.backward(x)
calls = dict(
    forward=lambda: bnfast.batch_norm(x),
    inference=lambda: bnfast.normalize(x, zeros, ones),
    backward=lambda: bnfast.batch_norm_backward(x, x, m),
    frozen_backward=lambda: bnfast.normalize_backward(x, x, zeros, ones),
    residual_backward=lambda: bnfast.batch_norm_backward(x, x, m, activation="relu", y=x, out=out),
    group=lambda: bnfast.group_norm(x, 4),
    crooked=lambda: bnfast.batch_norm(crooked, out=out),
    crooked_moments=lambda: bnfast.moments(crooked),
    crooked_out=lambda: bnfast.batch_norm(x, out=crooked_out),
    overlap=lambda: bnfast.batch_norm(shifted, out=both[: x.size].reshape(x.shape)),
    sums=lambda: bnfast.batch_norm(flat, out=flat_out),
    grad_sums=lambda: bnfast.batch_norm_backward(flat, flat, m_flat, out=flat_out),
    train=lambda: bn(x),
    train_crooked=lambda: bn(crooked, out=out),
    train_backward=lambda: bn.backward(x),
    evaluate=lambda: frozen(x),
    evaluate_backward=lambda: frozen.backward(x),
)
call = calls[NAME]

def state():
    kept = [x, flat, out, crooked_out, flat_out, both, bn.dgamma, bn.dbeta, frozen.dgamma, frozen.dbeta]
    return [a.sum(dtype=np.float64) for a in kept] + [a.tobytes() for b in (bn, frozen) for a in
                                                      map(np.asarray, b.state_dict().values())]

before, hard = state(), resource.getrlimit(resource.RLIMIT_AS)[1]
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (5 << 20), hard))
for _ in range(3):
    try:
        call()
    except MemoryError:
        continue
    raise SystemExit("it went through")
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert state() == before
call()
print("done")
"""


@pytest.mark.parametrize("name", re.findall(r"^    (\w+)=lambda", SHORT, re.M))
def test_when_memory_runs_out_nothing_has_changed(name):
    done = python(SHORT.replace("NAME", repr(name)), MALLOC_MMAP_THRESHOLD_="65536")  # what is freed is gone
    assert (done.stdout.strip(), done.stderr) == ("done", "")


# Fails one allocation, the n-th from now on: an array's memory, a workspace, what NumPy needs for either. (Small Python
# objects have a pool of their own.)
FAULTY = """
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
long until_it_fails;
#define OR_FAIL(memory) return until_it_fails > 0 && --until_it_fails == 0 ? NULL : memory
void *malloc(size_t size) { OR_FAIL(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { OR_FAIL(__libc_calloc(count, size)); }
void *realloc(void *old, size_t size) { OR_FAIL(__libc_realloc(old, size)); }
"""

ONE_FAILS = """
import ctypes, numpy as np, bnfast
until_it_fails = ctypes.c_long.in_dll(ctypes.CDLL(LIBRARY), "until_it_fails")
rng = np.random.default_rng(0)
x, dy = rng.standard_normal((2, 4, 300, 5)).astype(np.float32)
out, crooked_out, flat, wide = x * 0 + 7, (x * 0 + 7)[::-1], x.reshape(-1, 300), np.full(300, 3.0)
flat_out, mask = out.reshape(-1, 300), rng.random((4, 5)) < 0.5
y, m = bnfast.batch_norm(x, activation="relu")
bn, frozen = bnfast.BatchNorm(300), bnfast.BatchNorm(300, dtype="float64").eval()
gn, ln, rms = bnfast.GroupNorm(150, 300, dtype="float64"), bnfast.LayerNorm(300), bnfast.RMSNorm(300)
bn(x), frozen(x), gn(x), ln(flat), rms(flat)
m_group, m_rows, m_rms = bnfast.group_norm(x, 150)[1], bnfast.layer_norm(flat)[1], bnfast.rms_norm(flat)[1]
calls = dict(
    forward=lambda: bnfast.batch_norm(x, wide, out=out),
    masked=lambda: bnfast.batch_norm(x, mask=mask, out=out),
    crooked=lambda: bnfast.batch_norm(x, out=crooked_out),
    inference=lambda: bnfast.normalize(x, wide, wide, out=out),
    backward=lambda: bnfast.batch_norm_backward(dy, x, m, wide, out=out),
    gated_backward=lambda: bnfast.batch_norm_backward(dy, x, m, activation="relu", y=y, out=out),
    frozen_backward=lambda: bnfast.normalize_backward(dy, x, wide, wide, wide, out=out),
    group=lambda: bnfast.group_norm(x, 150, wide, out=out),
    group_backward=lambda: bnfast.group_norm_backward(dy, x, m_group, wide, out=out),
    layer=lambda: bnfast.layer_norm(flat, wide, out=flat_out),
    layer_backward=lambda: bnfast.layer_norm_backward(flat, flat, m_rows, wide, out=flat_out),
    rms=lambda: bnfast.rms_norm(flat, wide, out=flat_out),
    rms_backward=lambda: bnfast.rms_norm_backward(flat, flat, m_rms, wide, out=flat_out),
    train=lambda: bn(x, out),
    train_masked=lambda: bn(x, out, mask=mask),
    train_residual=lambda: bn(x, out, residual=dy),
    train_crooked=lambda: bn(x[::-1], crooked_out),
    train_backward=lambda: bn.backward(dy, out),
    evaluate=lambda: frozen(x, out),
    evaluate_backward=lambda: frozen.backward(dy, out),
    group_class=lambda: gn(x, out),
    group_class_backward=lambda: gn.backward(dy, out),
    layer_class=lambda: ln(flat, flat_out),
    layer_class_backward=lambda: ln.backward(flat, flat_out),
    rms_class=lambda: rms(flat, flat_out),
    rms_class_backward=lambda: rms.backward(flat, flat_out),
)

def state():
    kept = [x, dy, out, crooked_out] + [b.dgamma for b in (bn, frozen, gn, ln, rms)]
    kept += [value for b in (bn, frozen) for value in b.state_dict().values()]
    return b"".join(np.asarray(a).tobytes() for a in kept)

changed, failures = {}, 0
for name, call in calls.items():
    call()  # the first of its kind may import
    out[...] = crooked_out[...] = 7
    before, n, ended = state(), 0, False
    while not ended:
        n += 1
        until_it_fails.value = n
        try:
            call()
            ended = until_it_fails.value > 0  # it did without so many
        except MemoryError:
            failures += 1
            if state() != before:
                changed.setdefault(name, []).append(n)
        until_it_fails.value = 0
        if not ended and state() != before:  # it can do without the n-th
            out[...] = crooked_out[...] = 7
            before = state()
print(failures > 50, changed)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not shutil.which("cc"), reason="needs glibc and cc")
def test_whichever_allocation_fails_nothing_has_changed(tmp_path):
    (tmp_path / "faulty.c").write_text(FAULTY)
    library = str(tmp_path / "faulty.so")
    command = ["cc", "-O1", "-fno-builtin", "-shared", "-fPIC", tmp_path / "faulty.c", "-o", library]
    subprocess.run(command, check=True, timeout=60)
    done = python(ONE_FAILS.replace("LIBRARY", repr(library)), LD_PRELOAD=library)
    assert (done.stdout.strip(), done.stderr) == ("True {}", "")


def test_small_calls_do_not_leak():
    """10^5 of them, those that raise included."""
    script = """
import resource, numpy as np, bnfast
x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)
crooked, m, bn, frozen = x[:, ::-1], bnfast.moments(x), bnfast.BatchNorm(6), bnfast.BatchNorm(6).eval()

def work(n):
    for _ in range(n):
        bnfast.batch_norm(x)
        bnfast.normalize(x, m.mean, m.var, m.var)
        bnfast.batch_norm_backward(x, x, m)
        bnfast.batch_norm(crooked, axis=-1)
        bnfast.group_norm_backward(x, x, bnfast.group_norm(x, 2)[1])
        bn.backward(bn(x))
        frozen(x)
        m.merge(m)
        try:
            bnfast.batch_norm(x, eps=-1.0)
        except ValueError:
            pass

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

work(1000)
before = resident()
work(10_000)
print(resident() - before)
"""
    done = python(script)
    assert int(done.stdout) < 1 << 19, done.stderr
