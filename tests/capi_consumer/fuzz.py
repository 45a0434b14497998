"""Fuzz the C face (fuzz.c) of the bnfast that is installed here, and say how many cases gave which status.

    python fuzz.py --seconds 600 --seed 1        bytes from a generator of random numbers
    python fuzz.py --seed 1 --case 4711          one of those cases again
    python fuzz.py --libfuzzer --seconds 600     bytes from libFuzzer (needs clang); see build_libfuzzer()

It ends with 1 and the call that failed if one did; a crash, or touching a guard page, ends it with the case's number.
"""

import argparse
import ctypes
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fuzz.c")
# Without an import, which fails where bnfast is compiled for libFuzzer.
INCLUDE = Path(importlib.util.find_spec("bnfast").origin).with_name("include")
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{INCLUDE}"]


def build(folder):
    """The fuzzer as a library."""
    library = Path(folder, "fuzz.so")
    subprocess.run(["cc", *FLAGS, "-shared", "-fPIC", "-fvisibility=hidden", SOURCE, "-lm", "-o", library], check=True)
    return ctypes.CDLL(str(library))


def table():
    """The address of the table of functions."""
    from bnfast import _call

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer(_call.api, b"bnfast._call.api")


def run(seconds, seed, case=-1):
    """({status's number: cases}, None or what went wrong)"""
    counts = (ctypes.c_int64 * 64)()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = build(folder).fuzz_run
        fuzz.restype = ctypes.c_char_p
        fuzz.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_double, ctypes.c_int64, ctypes.c_void_p]
        wrong = fuzz(table(), seed, seconds, case, counts)
    return {status: count for status, count in enumerate(counts) if count}, wrong and wrong.decode()


def run_libfuzzer(seconds, seed):
    """Build the fuzzer around an embedded Python that imports bnfast, and run it; the exit code.

    libFuzzer is guided by what it sees covered: fuzz.c alone, unless bnfast was compiled with CC=clang and
    CFLAGS=-fsanitize=fuzzer-no-link."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fuzz")
        libs = ["-L" + sysconfig.get_config_var("LIBDIR"), "-Wl,-rpath," + sysconfig.get_config_var("LIBDIR")]
        libs += ["-lpython" + sysconfig.get_config_var("LDVERSION"), "-lm", "-rdynamic"]
        include = "-I" + sysconfig.get_path("include")
        command = ["clang", *FLAGS, include, "-DFUZZ_LIBFUZZER", "-fsanitize=fuzzer", SOURCE, *libs, "-o", program]
        subprocess.run(command, check=True)
        options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-max_len=256", "-len_control=0"]
        options += ["-print_final_stats=1"]
        path = ":".join(filter(None, sys.path))
        return subprocess.run([program, *options], env={**os.environ, "PYTHONPATH": path}, cwd=folder).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, default=-1)
    parser.add_argument("--libfuzzer", action="store_true")
    args = parser.parse_args()
    if args.libfuzzer:
        return run_libfuzzer(args.seconds, args.seed)
    counts, wrong = run(args.seconds, args.seed, args.case)
    print(f"{sum(counts.values())} cases; by status: {counts}")
    if wrong:
        print(wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
