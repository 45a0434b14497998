"""The C primitives without Python: on this CPU, on aarch64 under an emulator, and with the vectors of AVX-512."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=gnu11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", f"-I{ROOT / 'src'}"]


def check(tmp_path, compiler, *, flags=(), runner=()):
    """{ISA: digest of all its results} after building and running rows_check.c."""
    program = tmp_path / "rows_check"
    sources = {path.stem: path for path in (ROOT / "tests/rows_check.c", *(ROOT / "src").glob("*.c"))}

    def build(name):
        subprocess.run([compiler, *FLAGS, *flags, "-c", sources[name], "-o", tmp_path / f"{name}.o"], check=True)
        return tmp_path / f"{name}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(build, sources))
    subprocess.run([compiler, *flags, *objects, "-lm", "-o", program], check=True)
    done = subprocess.run([*runner, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}


def same(digests):
    """Do all but the generic one, which does not fuse, agree?"""
    return len({digest for isa, digest in digests.items() if isa != "generic"}) == 1


def needs(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return check(tmp_path_factory.mktemp("native"), "cc")


@needs("cc")
def test_on_this_cpu(native):
    assert {"wide", "generic"} <= set(native)
    assert same(native)


@needs("clang")
def test_built_by_clang(tmp_path):
    assert same(check(tmp_path, "clang"))


@needs("cc", "aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_on_aarch64(tmp_path, native):
    digests = check(tmp_path, "aarch64-linux-gnu-gcc", flags=["-static"], runner=["qemu-aarch64"])
    assert "neon" in digests
    assert same(digests)
    assert digests["neon"] == native["wide"]
