"""What the library runs on, and how many threads it takes."""

from __future__ import annotations

from pathlib import Path

from . import _geometry as geometry
from . import _machine, _memory


def get_include():
    """The folder of the C header ``bnfast.h``, for extensions that call the kernels without Python.

    The header says how; ``cimport bnfast`` needs the same folder.

    Returns
    -------
    str
        For ``include_dirs=`` of an extension, or ``cc -I``.

    Examples
    --------
    >>> from pathlib import Path
    >>> import bnfast
    >>> Path(bnfast.get_include(), "bnfast.h").exists()
    True
    """
    return str(Path(__file__).parent / "include")


def get_num_threads():
    """How many threads a large call made here and now would use.

    set_num_threads() decides; else OpenMP's setting for the calling thread (OMP_NUM_THREADS, threadpoolctl), which,
    unless OMP_NUM_THREADS is set, the process's CPU affinity and control group cap. It is 1 inside another parallel
    region, and in a forked child whose OpenMP runtime cannot start threads again, or which was the first to import
    bnfast. Small calls are serial anyway.

    Where the system refuses OpenMP a thread (a limit on processes, no address space for its stack), OpenMP ends the
    whole process. So a call asks first, if it is to use more threads than the last one made here: twice as many as
    are new start for a moment, and where they cannot the call is serial. This does not help if someone else takes
    the last room in that moment, or if another user of the same OpenMP runtime made fewer threads do here since:
    the number 1 is always safe.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.get_num_threads() >= 1
    True
    """
    return _machine.get_num_threads()


def set_num_threads(count):
    """Set how many threads calls without num_threads use, for the whole process; None leaves it to OpenMP again.

    Parameters
    ----------
    count : int or None
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If count is no integer, or below 1.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.set_num_threads(1)
    >>> bnfast.get_num_threads()
    1
    >>> bnfast.set_num_threads(None)
    """
    _machine.set_num_threads(geometry.thread_count("count", count))


def set_recycled_memory(limit):
    """Set how much memory of outputs that are gone is kept for the next ones.

    An output that a function makes itself (no ``out=``), of 1 MiB or more, leaves its memory to later ones: they save
    the page faults of fresh memory, which at 100 MB take longer than the arithmetic. Its values are never reused. At
    the start the limit is what the environment variable BNFAST_RECYCLE says, in bytes, else 1 GiB or a sixteenth of
    the memory (the machine's, or what the control group allows), whichever is less. Where the system refuses a call
    memory, what is kept is given back before the call fails.

    Parameters
    ----------
    limit : int
        In bytes; 0 keeps nothing.

    Raises
    ------
    TypeError, ValueError
        If limit is no integer, or negative.

    Examples
    --------
    >>> import bnfast
    >>> before = bnfast.show_config("dicts")["recycled_limit"]
    >>> bnfast.set_recycled_memory(0)
    >>> bnfast.show_config("dicts")["recycled_bytes"]
    0
    >>> bnfast.set_recycled_memory(before)
    """
    limit = geometry.integer("limit", limit, "a number of bytes")
    if not 0 <= limit < 1 << 63:
        raise ValueError(f"limit: got {limit}, wants 0 or more bytes")
    _memory.set_limit(limit)


def release_memory():
    """Give the memory that is kept for coming outputs back to the system. The limit stays.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.release_memory()
    >>> bnfast.show_config("dicts")["recycled_bytes"]
    0
    """
    _memory.release()


def show_config(mode="stdout"):
    """Show what the library runs on: version, instruction set, OpenMP runtime, threads, cache sizes.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as a dict.

    Returns
    -------
    dict or None
        With mode="dicts": version, isa, isas (all that this CPU can run), openmp (the _OPENMP date, 0 if built
        without), runtime (the file that serves OpenMP), threads, l2_bytes, llc_bytes, cache_bytes
        (what an output and its inputs may take, more or less by pass, or it is written past the caches, unless it is
        one of them), recycled_bytes (kept now), recycled_limit.

    Raises
    ------
    ValueError
        If mode is another one.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.show_config("dicts")["isa"] in ("generic", "avx2", "avx512", "zen4", "neon")
    True
    """
    from . import __version__

    if not (isinstance(mode, str) and mode in ("stdout", "dicts")):
        raise ValueError(f'mode: got {mode!r}, wants "stdout" or "dicts"')
    config = {"version": __version__, **_machine.config()}
    config |= {"recycled_bytes": _memory.held(), "recycled_limit": _memory.get_limit()}
    if mode == "dicts":
        return config
    runtime = f"{config['openmp']} ({config['runtime']})" if config["openmp"] else "none: built without, serial"
    print(f"bnfast   {config['version']}")
    print(f"isa      {config['isa']} (of {', '.join(config['isas'])}; BNFAST_ISA chooses)")
    print(f"openmp   {runtime}")
    print(f"threads  {config['threads']}")
    sizes = [config[name] >> 10 for name in ("l2_bytes", "llc_bytes", "cache_bytes")]
    print("caches   L2 {} KiB, last level {} KiB; outputs kept in {} KiB (BNFAST_CACHE chooses)".format(*sizes))
    print(f"recycled {config['recycled_bytes'] >> 20} MiB of outputs, at most {config['recycled_limit'] >> 20} MiB")
    return None
