"""One policy for threads, no hanging child after a fork, and objects that several threads use at once."""

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import bnfast
from bnfast import _machine

pytestmark = pytest.mark.thread_unsafe(reason="settings of the process, forks, memory limits")


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


def test_affinity_after_the_import():
    code = "import os, bnfast; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(bnfast.get_num_threads())"
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr


def test_num_threads_of_a_call():
    large = 1 << 40
    assert _machine.call_threads(large, 5) == 5
    assert _machine.call_threads(1000, 5) == 1
    assert _machine.call_threads(large, 0) == bnfast.get_num_threads()
    bnfast.set_num_threads(3)
    try:
        assert (_machine.call_threads(large, 0), _machine.call_threads(large, 2)) == (3, 2)
    finally:
        bnfast.set_num_threads(None)


@needs_openmp
def test_fewer_threads_than_asked_for():
    """OpenMP may grant fewer threads than a region asks for."""
    code = "import numpy as np, bnfast; x = np.random.default_rng(0).standard_normal((16, 32, 28, 28))\n"
    code += "print([bnfast.batch_norm(x, num_threads=n)[0].sum().hex() for n in (1, 2, 7)])"
    assert child(code, OMP_THREAD_LIMIT="1") == child(code)


# Threads that the system refuses would end the process inside libgomp.
REFUSED = """
import os, resource
import numpy as np, bnfast
x = np.random.default_rng(0).standard_normal((32, 64, 28, 28)).astype(np.float32)
y, out = bnfast.batch_norm(x, num_threads=1)[0], np.empty_like(x)
def threads(number):
    assert np.array_equal(bnfast.batch_norm(x, out=out, num_threads=number)[0], y)
    return len(os.listdir("/proc/self/task"))
before = threads(1)
{limit}
soft, hard = resource.getrlimit(kind)
{warm}
resource.setrlimit(kind, (allowed, hard))
print([threads(number) - before for number in (4, 4, 2)])
resource.setrlimit(kind, (soft, hard))
print([threads(number) - before for number in (4, 4)])
"""
PROCESSES = """
kind, allowed = resource.RLIMIT_NPROC, 1
if os.getuid() == 0:  # whom it does not bind
    os.setuid(54321)
"""
ADDRESSES = """
kind = resource.RLIMIT_AS
with open("/proc/self/statm") as file:
    allowed = int(file.read().split()[0]) * resource.getpagesize() + (80 << 20)
"""


@pytest.mark.parametrize("limit", [PROCESSES, ADDRESSES], ids=["processes", "addresses"])
def test_threads_that_the_system_refuses(limit):
    if "libgomp" not in bnfast.show_config("dicts")["runtime"]:
        pytest.skip("another OpenMP runtime, or none")
    environment = dict(OMP_STACKSIZE=" 100 M", OMP_NUM_THREADS="2")
    said = child(REFUSED.format(limit=limit, warm=""), **environment)
    assert said.splitlines() == ["[0, 0, 0]", "[3, 3]"]
    # Those that are left of a larger team can be used, but no more.
    warm = "threads(4)\nwhile threads(2) - before > 1: pass"
    said = child(REFUSED.format(limit=limit, warm=warm), **environment)
    assert said.splitlines() == ["[1, 1, 1]", "[3, 3]"]


SIZES = {
    "": 0,
    "4": 4096,
    "100B": 100,
    " 3 k ": 3072,
    "2M": 2 << 20,
    "1g": 1 << 30,
    "-1": 0,
    "many": 0,
    "9" * 99: 1 << 62,
}


@pytest.mark.parametrize("text", SIZES)
@pytest.mark.parametrize("name", ["OMP_STACKSIZE", "GOMP_STACKSIZE"])
def test_stack_size(name, text, monkeypatch):
    monkeypatch.setenv(name, text)
    assert _machine._stack_size() == SIZES[text]


V1_HALF = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}
CGROUPS = {
    "none": ("", {}, 0),
    "v2, top": ("0::/", {"": {"cpu.max": "250000 100000"}}, 3),
    "v2, no limit": ("0::/", {"": {"cpu.max": "max 100000"}}, 0),
    "v2, nested": ("0::/a/b", {"a/b": {"cpu.max": "200000 100000"}}, 2),
    "v2, a limit above": ("0::/a/b", {"a/b": {"cpu.max": "max 100000"}, "a": {"cpu.max": "400000 100000"}}, 4),
    "v2, the least": ("0::/a/b", {"a/b": {"cpu.max": "700000 100000"}, "a": {"cpu.max": "400000 100000"}}, 4),
    "v2, not the sister's": ("0::/a/b", {"a/c": {"cpu.max": "100000 100000"}}, 0),
    "v2, path of the host": ("0::/docker/1f", {"": {"cpu.max": "150000 100000"}}, 2),
    "v2, hybrid": ("0::/a", {"unified/a": {"cpu.max": "100000 100000"}}, 1),
    "v2, rubbish": ("0::/", {"": {"cpu.max": "many"}}, 0),
    "v2, no period": ("0::/", {"": {"cpu.max": "100000 0"}}, 0),
    "v1": ("3:cpuset:/\n4:cpu,cpuacct:/x", {"cpu,cpuacct/x": V1_HALF}, 1),
    "v1, by its link": ("4:cpu:/x/y", {"cpu/x": {"cpu.cfs_quota_us": "350000", "cpu.cfs_period_us": "100000"}}, 4),
    "v1, no limit": ("4:cpu:/", {"cpu": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}}, 0),
    "v1, another controller": ("4:cpuset:/x", {"cpuset/x": V1_HALF}, 0),
    "no list": (None, {"": {"cpu.max": "200000 100000"}}, 2),
}


def put_cgroups(tmp_path, lines, groups):
    """Files as the kernel has them; lines: None for no list."""
    if lines is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(lines + "\n")
    for group, files in groups.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text + "\n")


@pytest.mark.parametrize("name", CGROUPS)
def test_cpu_limit_of_the_control_group(name, tmp_path):
    lines, groups, wanted = CGROUPS[name]
    put_cgroups(tmp_path, lines, groups)
    assert _machine.cgroup_cpus(str(tmp_path)) == wanted


ALL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("lines", "group", "file", "text", "wanted"),
    [
        ("0::/a/b", "a", "memory.max", "33554432", 32 << 20),
        ("0::/a/b", "a/b", "memory.max", "max", ALL),
        ("0::/a/b", "a/b", "memory.max", str(2 * ALL), ALL),
        ("0::/a/b", "c", "memory.max", "33554432", ALL),
        ("5:memory:/x", "memory/x", "memory.limit_in_bytes", "33554432", 32 << 20),
        ("5:memory:/x", "memory/x", "memory.limit_in_bytes", "9223372036854771712", ALL),
        ("5:cpu:/x", "memory/x", "memory.limit_in_bytes", "33554432", ALL),
        ("0::/", "", "memory.max", "much", ALL),
    ],
)
def test_memory_limit_of_the_control_group(lines, group, file, text, wanted, tmp_path):
    put_cgroups(tmp_path, lines, {group: {file: text}})
    assert _machine.memory_bytes(str(tmp_path)) == wanted


OTHER = """
/* Another user of OpenMP in the process. */
int use(void) {
    int n = 0;
    #pragma omp parallel num_threads(2) reduction(+ : n)
    n++;
    return n;
}
int inside(int (*f)(void)) {
    int got = 0;
    #pragma omp parallel num_threads(2)
    #pragma omp master
    got = f();
    return got;
}
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Python that loads OTHER, which shares our OpenMP runtime, as `other`."""
    if not shutil.which("cc") or "libgomp" not in bnfast.show_config("dicts")["runtime"]:
        pytest.skip("needs cc and libgomp")
    folder = tmp_path_factory.mktemp("other")
    (folder / "other.c").write_text(OTHER)
    command = ["cc", "-shared", "-fPIC", "-fopenmp", folder / "other.c", "-o", folder / "other.so"]
    subprocess.run(command, check=True, timeout=60)
    return f"import ctypes; other = ctypes.CDLL({str(folder / 'other.so')!r})\n"


def test_inside_another_parallel_region(other):
    code = """
import numpy as np, bnfast
x = np.random.default_rng(0).standard_normal((16, 32, 28, 28)).astype(np.float32)
y = bnfast.batch_norm(x, num_threads=2)[0]
call = ctypes.CFUNCTYPE(ctypes.c_int)
print(other.inside(call(bnfast.get_num_threads)), bnfast.get_num_threads(),
      other.inside(call(lambda: np.array_equal(bnfast.batch_norm(x, num_threads=2)[0], y))))
"""
    assert child(other + code, OMP_NUM_THREADS="2") == "1 2 1"


# A child that hangs is killed by its alarm, and its parent says -14.
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


TORCH = "import torch; torch.set_num_threads(2); (torch.ones(1 << 22) + 1).sum()"


@pytest.mark.parametrize(
    "before",
    [
        "",
        pytest.param(
            TORCH, marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
        ),
    ],
    ids=["alone", "after torch"],
)
def test_a_forked_child_does_not_hang(before):
    assert child(FORK.format(before=before), OMP_NUM_THREADS="2") == "0"


def test_a_fork_from_a_thread_while_others_compute():
    code = """
import os, signal, threading, warnings
import numpy as np, bnfast
warnings.simplefilter("ignore")
x = np.random.default_rng(0).standard_normal((16, 32, 28, 28)).astype(np.float32)
y = bnfast.batch_norm(x, num_threads=2)[0]
stop, codes = threading.Event(), []
def compute():
    while not stop.is_set():
        assert np.array_equal(bnfast.batch_norm(x, num_threads=2)[0], y)
def fork():
    for _ in range(10):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            os._exit(0 if all(np.array_equal(bnfast.batch_norm(x, num_threads=2)[0], y) for _ in range(3)) else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
computing, forking = threading.Thread(target=compute), [threading.Thread(target=fork) for _ in range(2)]
for thread in (computing, *forking): thread.start()
for thread in forking: thread.join()
stop.set()
computing.join()
print(set(codes), len(codes))
"""
    assert child(code, OMP_NUM_THREADS="2") == "{0} 20"


def test_first_import_in_the_child_of_a_parent_that_ran_threads(other):
    """The child stays serial, and so does its own child: what the runtime believes to have is dead."""
    code = """
import os, signal
assert other.use() == 2
if os.fork() == 0:
    signal.alarm(20)
    import numpy as np, bnfast
    x = np.ones((64, 64, 64), np.float32)
    bnfast.batch_norm(x, num_threads=2)
    if os.fork() == 0:
        signal.alarm(10)
        bnfast.batch_norm(x, num_threads=2)
        os._exit(bnfast.get_num_threads())
    os._exit(10 * bnfast.get_num_threads() + os.waitstatus_to_exitcode(os.wait()[1]))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert child(other + code, OMP_NUM_THREADS="2") == "11"


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
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test has loaded it
@pytest.mark.parametrize("workers", [2, 4])
def test_a_fork_pool(workers):
    """The parent computes on while the pool's children do 200 calls."""
    wanted = [_double(n) for n in range(8)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pending = pool.map_async(_double, [n % 8 for n in range(200)])
        while not pending.ready():
            assert _double(3) == wanted[3]
        assert pending.get(timeout=60) == wanted * 25


@needs_openmp
def test_a_forked_child_has_its_threads_under_libgomp():
    if "libgomp" not in bnfast.show_config("dicts")["runtime"]:
        pytest.skip("another OpenMP runtime")
    code = FORK.format(before="").replace("os._exit(0 if same else 1)", "os._exit(10 + bnfast.get_num_threads())")
    assert child(code, OMP_NUM_THREADS="2") == "12"


# ---- several Python threads ----


def together(work, count=8):
    """Runs work(0), ..., work(count - 1) in threads that start as one; what they raised."""
    raised, start = [], threading.Barrier(count)

    def run(i):
        try:
            start.wait(20)
            work(i)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised + [f"{thread} hangs" for thread in threads if thread.is_alive()]


CALLS = 10_000 // 8


def batches(kinds=5):
    """Small batches whose every channel has mean k and biased variance k*k, exactly."""
    signs = np.where(np.arange(8) % 2, -1, 1).reshape(8, 1, 1)
    return [np.broadcast_to(k + k * signs, (8, 3, 2)).astype(np.float32) for k in range(1, kinds + 1)]


def test_threads_share_one_object():
    data = [np.ascontiguousarray(x) for x in batches()]
    bn = bnfast.BatchNorm(3, momentum=0.0, unbiased=False)  # the running averages are the last batch's
    wanted = [bnfast.batch_norm(x)[0] for x in data]
    bn(data[0])

    def work(i):
        for n in range(CALLS):
            k = (i + n) % len(data)
            np.testing.assert_array_equal(bn(data[k]), wanted[k])
            state = bn.state_dict()
            assert (state["running_var"] == state["running_mean"] ** 2).all(), state

    assert not together(work)
    assert bn.num_batches_tracked == 1 + 8 * CALLS


def test_no_update_is_lost():
    """The plain average of all batches, whatever their order."""
    data = [np.ascontiguousarray(x) for x in batches(2)]
    bn = bnfast.BatchNorm(3, momentum=None, unbiased=False)

    def work(i):
        for _ in range(CALLS):
            bn(data[i % 2])

    assert not together(work)
    assert bn.num_batches_tracked == 8 * CALLS
    np.testing.assert_allclose(bn.running_mean, 1.5, rtol=1e-10)
    np.testing.assert_allclose(bn.running_var, 2.5, rtol=1e-10)


def test_threads_with_an_object_each():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 4, 8, 3, 5)).astype(np.float32)

    def train(i):
        bn = bnfast.BatchNorm(3, axis=2)
        for n in range(CALLS):
            y = bn(x[(i + n) % 8])
            dx = bn.backward(y)
        return y, dx, bn.dgamma, bn.running_mean, bn.running_var

    wanted, got = [train(i) for i in range(8)], [None] * 8

    def work(i):
        got[i] = train(i)

    assert not together(work)
    for a, b in zip(got, wanted, strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


def test_large_calls_from_many_threads():
    """Each Python thread has OpenMP workers of its own."""
    x = np.random.default_rng(0).standard_normal((4, 8, 32, 28, 28)).astype(np.float32)
    wanted = [bnfast.batch_norm(a, num_threads=1)[0] for a in x]

    def work(i):
        for _ in range(10):
            np.testing.assert_array_equal(bnfast.batch_norm(x[i], num_threads=2)[0], wanted[i])

    assert not together(work, 4)


def test_errors_in_other_threads_do_no_harm():
    bn, x = bnfast.BatchNorm(3), np.ascontiguousarray(batches()[0])
    wanted = bn(x).copy()

    def work(i):
        for _ in range(200):
            if i % 2:
                with pytest.raises(ValueError, match="channels|gamma"):
                    bn(np.ones((4, 5, 2), np.float32))
            else:
                np.testing.assert_array_equal(bn(x), wanted)

    assert not together(work)
    assert bn.num_batches_tracked == 1 + 4 * 200


def test_an_interrupt_arrives_after_the_call():
    """Ctrl-C, at any moment: the object is usable, and its statistics are those of whole batches."""
    code = """
import os, signal, time
import numpy as np, bnfast
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
x = np.random.default_rng(0).standard_normal((32, 64, 56, 56)).astype(np.float32) + 3
bn, reference = bnfast.BatchNorm(64, momentum=None), bnfast.BatchNorm(64, momentum=None)
y, out = reference(x), np.empty_like(x)
interrupts = 0
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
for n in range(30):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005 + 0.0005 * n)
        while True:
            bn(x, out=out)
    except KeyboardInterrupt:
        interrupts += 1
        if bn.num_batches_tracked:
            np.testing.assert_allclose(bn.running_mean, reference.running_mean, rtol=1e-12)
before = bn.num_batches_tracked
assert np.array_equal(bn(x), y) and bn.num_batches_tracked == before + 1
bn.backward(x)
print(interrupts)
"""
    assert child(code) == "30"
