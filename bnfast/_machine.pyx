"""What this machine offers: the arithmetic, the caches, the threads. One policy each, decided here.

Threads. Nothing here changes the process's OpenMP settings: each call asks how many threads OpenMP would use in the
calling thread (OMP_NUM_THREADS and threadpoolctl speak through that) and passes its answer to each prange.

Fork. libgomp's worker threads do not exist in a forked child, and asking for them hangs for ever. So before a fork
libgomp is told to give the forking thread's workers up, which is the state in which a fork is safe; the child then
starts its own. Under another OpenMP runtime, or where the pause is refused, the child computes serially.

Limits. Where the system refuses OpenMP a thread it ends the process. So before a calling thread uses more than in its
last call, twice as many as are new are started here for a moment; where that fails, the call is serial.
"""
import os
import re

from libc.stdint cimport int64_t

from ._rows cimport (
    rows_available,
    rows_beyond_a_mesh,
    rows_fence,
    rows_isa,
    rows_select,
    rows_table,
    rows_type,
)

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <pthread.h>
    #include <stdlib.h>

    static _Thread_local int machine_released; /* the fork that this thread is at has found no workers of its own */
    static _Thread_local int machine_team = 1; /* how many threads OpenMP last had to use for this one */

    static void *machine_wait(void *gate) {
        pthread_mutex_lock((pthread_mutex_t *)gate);
        pthread_mutex_unlock((pthread_mutex_t *)gate);
        return NULL;
    }

    /* Does the system grant so many threads more, all at once, with stacks of that size (0: the usual one)? */
    static int machine_grants(int count, size_t stack) {
        pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
        pthread_t *thread = (pthread_t *)malloc((size_t)count * sizeof *thread);
        pthread_attr_t attr;
        int started = 0;
        if (thread && !pthread_attr_init(&attr)) {
            if (stack) pthread_attr_setstacksize(&attr, stack); /* one that it refuses, OpenMP does not take either */
            pthread_mutex_lock(&gate);
            while (started < count && !pthread_create(thread + started, &attr, machine_wait, &gate)) started++;
            pthread_mutex_unlock(&gate);
            for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
            pthread_attr_destroy(&attr);
        }
        free(thread);
        return started == count;
    }

    #if defined(_OPENMP)
    #include <omp.h>
    #pragma weak omp_pause_resource_all /* OpenMP 5.0; an older runtime does not have it */
    #define MACHINE_OPENMP _OPENMP

    /* The file that serves omp_get_max_threads in this process: another package may have loaded its own. */
    static const char *machine_runtime(void) {
        Dl_info info;
        return dladdr((void *)&omp_get_max_threads, &info) && info.dli_fname ? info.dli_fname : "";
    }

    /* 0: the threads are gone. */
    static int machine_release_threads(void) {
        return &omp_pause_resource_all ? omp_pause_resource_all(omp_pause_hard) : -1;
    }
    #else
    #define MACHINE_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    static int omp_get_num_procs(void) { return 1; }
    static int omp_in_parallel(void) { return 0; }
    static const char *machine_runtime(void) { return ""; }
    static int machine_release_threads(void) { return -1; }
    #endif
    """
    int MACHINE_OPENMP
    int omp_get_max_threads() noexcept nogil
    int omp_get_num_procs() noexcept nogil
    int omp_in_parallel() noexcept nogil
    const char *machine_runtime() noexcept nogil
    int machine_release_threads() noexcept nogil
    bint machine_released
    int machine_team
    bint machine_grants(int, size_t) noexcept nogil
    int pthread_atfork(void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil) noexcept nogil


# ---- arithmetic ----

cdef const rows_isa *isa


cdef const rows_table *table(rows_type type) noexcept nogil:
    return isa.type[<int> type]


cdef void fence() noexcept nogil:
    rows_fence()


def isas():
    """The instruction sets that this CPU can run, the fastest first, by the names BNFAST_ISA takes."""
    names, i = [], 0
    while rows_available(i):
        names.append(rows_available(i).name.decode())
        i += 1
    return names


def _choose_isa():
    global isa
    wanted = os.environ.get("BNFAST_ISA") or None
    isa = rows_select(NULL) if wanted is None else rows_select(os.fsencode(wanted))
    if isa is NULL:
        raise ImportError(f"BNFAST_ISA={wanted!r}: this CPU has {', '.join(isas())}")


# ---- caches ----

cdef int64_t l2 = 1 << 20
cdef int64_t llc = 8 << 20
cdef bint mesh = rows_beyond_a_mesh()
cdef int64_t wanted_cache = -1


cdef int64_t l2_bytes() noexcept nogil:
    return l2


cdef int64_t llc_bytes() noexcept nogil:
    return llc


cdef bint has_mesh() noexcept nogil:
    return mesh


cdef int64_t cache_bytes(int threads) noexcept nogil:
    """What so many threads keep in caches that are faster to write to than memory: an output that does not fit, beside
    what it is made from, goes past them. Behind a mesh those are the second-level ones. (Whoever reads such an output
    at once may gain what writing it into the last level costs; so it can be asked for.)"""
    return wanted_cache if wanted_cache >= 0 else min(threads * l2, llc) if mesh else llc


def _measure_caches():
    """As the kernel tells them (sysconf is wrong on some virtual machines); the guesses above where it does not."""
    global l2, llc
    sizes = {}
    for index in range(5):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        try:
            with open(f"{folder}/level") as level, open(f"{folder}/size") as size:
                sizes[int(level.read())] = int(size.read().strip().removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    l2 = sizes.get(2, l2)
    llc = sizes.get(3, max(l2, llc))


def bytes_wanted(name, absent, zero):
    """What that variable of the environment says, in bytes, or `absent`. zero: what 0 is for."""
    text = os.environ.get(name)
    if not text:
        return absent
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise ImportError(f"{name}={text!r}: wants a number of bytes, 0 to {zero}")
    return int(text)


# ---- threads ----

# Below this many elements a call of one sweep is over before a second thread has woken up.
cdef enum:
    SERIAL_ELEMENTS = 1 << 16
    THREAD_ELEMENTS = 1 << 15  # and a further thread wants as much to do

cdef int limit = 0             # set_num_threads(); 0: not set
cdef int quota = 0             # whole CPUs the cgroup grants, very many without a limit; 0: OMP_NUM_THREADS decides
cdef bint can_release = False  # the runtime is libgomp, which can give up its threads before a fork
cdef bint fork_safe = True     # this process may start threads
cdef size_t stack = 0          # of OpenMP's threads, in bytes; 0: what threads have otherwise


cdef int default_threads() noexcept nogil:
    cdef int count = omp_get_max_threads()
    if limit:
        return limit
    if quota:
        count = min(count, quota, omp_get_num_procs())
    return max(count, 1)


cdef int threads_for(int64_t elements, int asked) noexcept nogil:
    """How many threads a call over so many elements gets; asked: the caller's num_threads, 0 for the default."""
    if elements < SERIAL_ELEMENTS or not fork_safe or omp_in_parallel():
        return 1
    cdef int count = asked if asked > 0 else default_threads()
    return <int> min(<int64_t> count, elements // THREAD_ELEMENTS)


cdef int granted(int count) noexcept nogil:
    """So many threads, or 1 where the system refuses them. OpenMP keeps those that it has until it is to use fewer."""
    global machine_team
    if count <= 1 or not MACHINE_OPENMP:
        return count
    # Twice as many: those that have ended here may be counted for a moment yet.
    if count > machine_team and not machine_grants(2 * (count - machine_team), stack):
        return 1
    machine_team = count
    return count


def call_threads(elements, asked):
    """How many threads a call over so many elements gets; asked: 0 for the default."""
    return threads_for(elements, asked)


def get_num_threads():
    return threads_for(1 << 62, 0)


def set_num_threads(count):
    global limit
    limit = count


# Several threads may fork at once, each with workers of its own: what one finds is for its own child alone.

cdef void before_fork() noexcept nogil:
    global machine_released, machine_team
    # Where threads are not safe already, what the runtime believes to have is dead: it would wait for them for ever.
    machine_released = fork_safe and can_release and machine_release_threads() == 0
    machine_team = 1


cdef void after_fork_in_child() noexcept nogil:
    global fork_safe
    fork_safe = machine_released


def _cgroup_least(controller, limit, root):
    """The least limit(folder, first) of this process's control groups and all above them, 0 if there is none; first: of
    version 1. `root` is where /proc and /sys lie, for the test."""
    limits = []
    try:
        with open(f"{root}/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        lines = []
    # One line a hierarchy: "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1.
    for _, names, path in [line.split(":", 2) for line in lines if line.count(":") > 1] or [("0", "", "/")]:
        if names and controller not in names.split(","):
            continue
        # In a container the path may be told as the host sees it, while its own group is mounted as the top.
        for mount in (controller, names) if names else ("", "unified"):
            folder = f"/{path.strip('/')}"
            while folder is not None:
                limits.append(limit(f"{root}/sys/fs/cgroup/{mount}{folder}", names != ""))
                folder = folder.rpartition("/")[0] if folder else None
    return min(filter(None, limits), default=0)


def _numbers_in(folder, *names):
    """Those in some files; 0 for what means that there is no limit. None where they cannot be read."""
    text = []
    try:
        for name in names:
            with open(f"{folder}/{name}") as file:
                text += file.read().split()
        return [0 if word in ("max", "-1") else int(word) for word in text]
    except (OSError, ValueError):
        return None


def _cpus_of(folder, first):
    """The CPU limit of one group alone, 0 if there is none."""
    found = _numbers_in(folder, *(("cpu.cfs_quota_us", "cpu.cfs_period_us") if first else ("cpu.max",)))
    if found is None or len(found) != 2 or min(found) <= 0:
        return 0
    return max(1, -(-found[0] // found[1]))


def _memory_of(folder, first):
    """The memory limit of one group alone, 0 if there is none."""
    found = _numbers_in(folder, "memory.limit_in_bytes" if first else "memory.max")
    return max(found[0], 0) if found else 0


def cgroup_cpus(root=""):
    """Whole CPUs, rounded up, that the control groups allow; 0 without a limit."""
    return _cgroup_least("cpu", _cpus_of, root)


def memory_bytes(root=""):
    """What this process may have: the machine's, or less if its control groups say so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, _cgroup_least("memory", _memory_of, root) or machine)


def _born_forked():
    """Was this process forked and not executed since? Then a runtime that the parent used may lie dead in it."""
    try:
        with open("/proc/self/stat") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & 0x40)  # PF_FORKNOEXEC
    except (OSError, ValueError, IndexError):
        return False


def _stack_size():
    """OMP_STACKSIZE, or libgomp's own name for it: a number of KiB, or of another unit; 0 if there is none."""
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        found = re.fullmatch(r"\s*(\d+)\s*([bkmg]?)\s*", os.environ.get(name, ""), re.ASCII | re.IGNORECASE)
        if found:
            return min(int(found[1]) << 10 * "bkmg".index(found[2].lower() or "k"), 1 << 62)
    return 0


def _prepare_threads():
    global quota, can_release, fork_safe, stack
    if "OMP_NUM_THREADS" not in os.environ:
        quota = cgroup_cpus() or 1 << 30
    can_release = b"libgomp" in machine_runtime().rpartition(b"/")[2]
    fork_safe = not _born_forked()
    stack = _stack_size()
    if MACHINE_OPENMP:
        pthread_atfork(before_fork, NULL, after_fork_in_child)


def config():
    """What show_config() shows."""
    threads = get_num_threads()
    return {
        "isa": isa.name.decode(),
        "isas": isas(),
        "openmp": MACHINE_OPENMP,
        "runtime": machine_runtime().decode(errors="replace"),
        "threads": threads,
        "l2_bytes": l2,
        "llc_bytes": llc,
        "cache_bytes": cache_bytes(threads),
    }


_choose_isa()
_measure_caches()
wanted_cache = bytes_wanted("BNFAST_CACHE", -1, "write all outputs past the caches")
_prepare_threads()
