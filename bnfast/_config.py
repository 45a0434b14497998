"""What the library runs on, and how many threads it takes."""

from __future__ import annotations

from . import _machine
from ._geometry import thread_count


def get_num_threads():
    """How many threads a large call made here and now would use.

    set_num_threads() decides; else OpenMP's setting for the calling thread (OMP_NUM_THREADS, threadpoolctl), which,
    unless OMP_NUM_THREADS is set, the process's CPU affinity and control group cap. It is 1 inside another parallel
    region, and in a forked child whose OpenMP runtime cannot start threads again. Small calls are serial anyway.

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
    _machine.set_num_threads(thread_count("count", count))


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
        without), runtime (the file that serves OpenMP), threads, l2_bytes, llc_bytes.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.show_config("dicts")["isa"] in ("generic", "avx2", "avx512", "neon")
    True
    """
    from . import __version__

    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode: got {mode!r}, wants "stdout" or "dicts"')
    config = {"version": __version__, **_machine.config()}
    if mode == "dicts":
        return config
    runtime = f"{config['openmp']} ({config['runtime']})" if config["openmp"] else "none: built without, serial"
    print(f"bnfast   {config['version']}")
    print(f"isa      {config['isa']} (of {', '.join(config['isas'])}; BNFAST_ISA chooses)")
    print(f"openmp   {runtime}")
    print(f"threads  {config['threads']}")
    print(f"caches   L2 {config['l2_bytes'] >> 10} KiB, last level {config['llc_bytes'] >> 10} KiB")
    return None
