"""The C face: its header, what compiled callers depend on, the consumers of capi_consumer/, every status, a fuzzer."""

import ctypes
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from capi_consumer import abi, ctypes_consumer

import bnfast

CONSUMERS = Path(__file__).parent / "capi_consumer"
PYTHON = f"-I{sysconfig.get_path('include')}"
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-pedantic", "-Werror"]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LIMITED = "" if FREE_THREADED else "#define Py_LIMITED_API 0x030b0000\n"  # which those do not have
api = ctypes_consumer.api

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs cc")


def run(*command, cwd=None):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- the consumers ----


@pytest.fixture(scope="session")
def clean_python(wheel, tmp_path_factory):
    """A virtual environment with the wheel in it, and what it and the build need from where these tests run."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    Path(purelib, "elsewhere.pth").write_text("\n".join(paths))  # an editable install there is not found through it
    return python


@pytest.mark.thread_unsafe(reason="asks pytest for a fixture, and builds for a minute")
@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_consumers_give_pythons_bits(install, request, tmp_path):
    python = sys.executable if install == "editable" else request.getfixturevalue("clean_python")
    folder = shutil.copytree(CONSUMERS, tmp_path / "consumers")
    run(python, "setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    assert FREE_THREADED or list(folder.glob("c_consumer.abi3.*"))
    said = run(python, "compare.py", cwd=folder)
    count, _, where = re.match(r"(\d+) results compared with ((.*)bnfast/__init__.py)", said).group(1, 2, 3)
    assert int(count) > 5000
    assert (where == f"{Path(bnfast.__file__).parent.parent}/") == (install == "editable")


# ---- the header ----


@pytest.mark.parametrize("std", ["c99", "c11", "c17", "c++11", "c++17"])
@pytest.mark.parametrize("compiler", ["cc", "clang"])
@pytest.mark.parametrize("use", ["", f"{LIMITED}#include <Python.h>\n"])
def test_header_compiles_without_a_warning(std, compiler, use, tmp_path):
    if not shutil.which(compiler) or ("++" in std and not shutil.which("c++")):
        pytest.skip(f"needs {compiler}, c++")
    source = tmp_path / "one.c"
    source.write_text(f"{use}#include <bnfast.h>\n#include <bnfast.h>\nint one;\n")
    language = ["-x", "c++"] if "++" in std else []
    run(compiler, *language, f"-std={std}", *STRICT, PYTHON, f"-I{bnfast.get_include()}", "-fsyntax-only", source)


def test_pxd_names_all_that_the_header_has():
    pxd = set(re.findall(r"\w+", Path(bnfast.__file__).with_name("__init__.pxd").read_text()))
    for line in abi.describe():
        name = re.search(r"number (\w+)|size (\w+)|field \w+\.(\w+)|function .*?(\w+)\(", line)
        assert name is None or (name[1] or name[2] or name[3] or name[4]) in pxd, line


def doctored(folder, *changes):
    """A header with other text in it."""
    text = abi.HEADER.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "bnfast.h").write_text(text)
    return folder / "bnfast.h"


NEWER = "#define BNFAST_API_VERSION 1", "#define BNFAST_API_VERSION 2"
FIELD = "\n} bnfast_call;", "\n    double more;\n} bnfast_call;"
FUNCTION = "\n} bnfast_api;", "\n    int (*more)(void);\n} bnfast_api;"


def test_abi_has_only_grown():
    found = abi.complaints(abi.GOLDEN.read_text().splitlines(), abi.describe())
    assert not found, "\n".join(found) + f"\n{abi.__doc__}"


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (NEWER,),
        (NEWER, FIELD),
        (NEWER, FUNCTION),
        (NEWER, ("BNFAST_LAYER, BNFAST_RMS };", "BNFAST_LAYER, BNFAST_RMS, BNFAST_OTHER };")),
        (NEWER, ("    BNFAST_STATUSES\n", "    BNFAST_TIRED,\n    BNFAST_STATUSES\n")),
    ],
)  # fmt: skip
def test_growth_passes(changes, tmp_path):
    assert not abi.complaints(abi.describe(), abi.describe(doctored(tmp_path, *changes)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ([FIELD], "BNFAST_API_VERSION is still 1"),
        ([NEWER, ("    double eps; ", "    double more; double eps; ")], "bnfast_call.eps: was"),
        ([NEWER, ("int32_t reserved;", "int32_t more;")], "bnfast_call.reserved: is gone"),
        ([NEWER, ("int32_t relu; ", "int64_t relu; ")], "bnfast_call.relu: was 20 4"),
        ([("BNFAST_ABI_VERSION 1", "BNFAST_ABI_VERSION 2")], "BNFAST_ABI_VERSION: was 1, is 2"),
        ([("BNFAST_API_VERSION 1", "BNFAST_API_VERSION 0")], "BNFAST_API_VERSION: was 1, is 0"),
        ([("BNFAST_BATCH, BNFAST_GROUP,", "BNFAST_GROUP, BNFAST_BATCH,")], "BNFAST_BATCH: was 0, is 1"),
        ([("(*strerror)(int status);", "(*strerror)(long status);")], "(*strerror)(int status): is gone"),
        ([("static inline int bnfast_backward(", "static inline int bnfast_back(")], "bnfast_backward(const"),
    ],
)
def test_changes_fail(changes, complaint, tmp_path):
    wrong = abi.complaints(abi.describe(), abi.describe(doctored(tmp_path, *changes)))
    assert any(complaint in line for line in wrong), wrong


@pytest.mark.parametrize("change", [("BNFAST_ABI_VERSION 1", "BNFAST_ABI_VERSION 2"), NEWER])
def test_a_mismatch_is_an_import_error(change, tmp_path):
    doctored(tmp_path, change)
    target = tmp_path / "c_consumer.so"
    run("cc", "-shared", "-fPIC", PYTHON, f"-I{tmp_path}", CONSUMERS / "c_consumer.c", "-o", target)
    code = "try:\n import c_consumer\nexcept ImportError as error: print(error)"
    said = run(sys.executable, "-c", code, cwd=tmp_path)
    assert re.fullmatch(r"bnfast: compiled against ABI \d, API \d, but the library has ABI 1, API 1\n", said)


def test_ctypes_structures_are_the_headers():
    lines = set(abi.describe())
    for name, structure in (("bnfast_call", ctypes_consumer.Call), ("bnfast_api", ctypes_consumer.Api)):
        assert f"size {name} {ctypes.sizeof(structure)}" in lines
        for field, *_ in structure._fields_:
            at = getattr(structure, field)
            assert f"field {name}.{field} {at.offset} {at.size}" in lines
    for number, name in enumerate(ctypes_consumer.STATUSES):
        assert f"number BNFAST_{name} {number}" in lines
    assert f"number BNFAST_STATUSES {len(ctypes_consumer.STATUSES)}" in lines


# ---- what a call may be ----


class Forward:
    """A valid call, or another pass over the same arrays; what it writes is filled with 77."""

    def __init__(self, what="forward", outer=4, channels=3, inner=5, **numbers):
        size = outer * channels * inner
        rng = np.random.default_rng(0)
        arrays = {name: rng.standard_normal(size, dtype=np.float32) for name in ("x", "dy", "y", "residual")}
        arrays |= {name: np.full(size, 77, np.float32) for name in ("out", "dresidual")}
        arrays |= {name: np.ones(channels, np.float32) for name in ("gamma", "beta")}
        arrays |= {name: np.full(channels, 77, np.float32) for name in ("dgamma", "dbeta")}
        arrays |= {name: np.full(channels, 77.0) for name in ("mean", "m2", "var")}
        back = what in ("backward", "normalize_backward")
        for name in ("residual",) if back else ("y", "dresidual"):
            del arrays[name]
        if back and not numbers.get("relu"):
            del arrays["y"], arrays["dresidual"]
        self.pass_number = ctypes_consumer.PASSES.index(what)
        self.arrays = arrays
        shape = {"outer": outer, "channels": channels, "inner": inner}
        self.call = ctypes_consumer.describe({**shape, **numbers}, arrays)
        self.room = np.full(max(api.workspace(self.pass_number, self.call), 0) // 8 + 1, 77.0)
        self.call.workspace, self.call.workspace_size = self.room.ctypes.data, self.room.nbytes

    def run(self):
        return api.run(self.pass_number, self.call)

    def memory(self):
        return [array.tobytes() for array in (*self.arrays.values(), self.room)]


REFUSED = {  # status -> (pass, its numbers, what is changed)
    "BAD_CALL": [
        ("forward", {}, {"struct_size": 0}),
        ("forward", {}, {"struct_size": ctypes.sizeof(ctypes_consumer.Call) + 8}),
        ("forward", {}, {"reserved": 1}),
        ("backward", {"relu": 1}, {"relu": 0}),
    ],
    "BAD_DTYPE": [("forward", {}, {"dtype": 4}), ("moments", {}, {"dtype": -1}), ("forward", {}, {"param_dtype": 2})],
    "BAD_NORM": [
        ("forward", {}, {"norm": 4}),
        ("normalize", {}, {"norm": 1}),
        ("normalize_backward", {}, {"norm": 2}),
        ("forward", {"outer": 1}, {"norm": 2, "relu": 1}),
        ("forward", {"outer": 1}, {"norm": 3}),  # there is a residual
    ],
    "BAD_SHAPE": [
        ("forward", {}, {"outer": -1}),
        ("moments", {}, {"inner": -(2**63)}),
        ("forward", {}, {"channels": 2**62}),
        ("forward", {}, {"channels": 2**31, "outer": 2**31}),
        ("forward", {}, {"samples": 2}),
        ("backward", {"outer": 2}, {"norm": 2}),
    ],
    "BAD_GROUPS": [
        ("forward", {}, {"norm": 1, "groups": 2}),
        ("forward", {}, {"norm": 1, "groups": 0}),
        ("forward", {}, {"norm": 1, "groups": -3}),
        ("forward", {}, {"norm": 1, "groups": 2**62, "channels": 0}),
    ],
    "BAD_COUNT": [("forward", {"outer": 1, "inner": 1}, {})],
    "BAD_EPS": [("forward", {}, {"eps": eps}) for eps in (0.0, -1.0, float("nan"), float("inf"))],
    "BAD_THREADS": [("moments", {}, {"threads": -1})],
    "BAD_VARIANCE": [("normalize", {}, {"var": np.array([1, 1, -1e-300])}), ("backward", {}, {"m2": -np.ones(3)})],
    "MISSING": [
        *[("forward", {}, {name: None}) for name in ("x", "out", "mean", "m2")],
        *[("backward", {"relu": 1}, {name: None}) for name in ("dy", "dresidual")],
        ("normalize_backward", {}, {"var": None}),
        ("forward", {"outer": 3, "channels": 5000, "inner": 1}, {"workspace": None}),
    ],
    "MISALIGNED": [
        *[("forward", {}, {name: 1}) for name in ("x", "out", "residual", "gamma", "mean", "workspace")],
        ("backward", {}, {"dgamma": 2}),
    ],
    "OVERLAP": [
        ("forward", {}, {"out": ("x", 4)}),
        ("forward", {}, {"mean": ("m2", 0)}),
        ("forward", {}, {"mean": ("gamma", 0)}),
        ("backward", {}, {"dbeta": ("dgamma", 0)}),
        ("backward", {"relu": 1}, {"dresidual": ("x", 0)}),
        *[
            ("backward", {"relu": 1}, {"dresidual": (place, 0), name: (place, 0)})
            for place, name in (("dy", "gamma"), ("y", "mask"), ("y", "mean"))
        ],
        ("normalize", {}, {"out": ("workspace", 0)}),
    ],
    "SMALL_WORKSPACE": [
        ("forward", {"outer": 3, "channels": 5000, "inner": 1}, {"workspace_size": 100}),
        ("forward", {"outer": 3, "channels": 5000, "inner": 1}, {"workspace_size": -1}),
    ],
}


@pytest.mark.parametrize(
    ("status", "what", "numbers", "change"), [(status, *case) for status, cases in REFUSED.items() for case in cases]
)
def test_what_is_wrong_has_a_status_and_writes_nothing(status, what, numbers, change):
    given = Forward(what, **numbers)
    number = ctypes_consumer.STATUSES.index(status)
    for name, value in change.items():
        if isinstance(value, np.ndarray):
            given.arrays[name][:] = value
            continue
        if isinstance(value, tuple):
            value = getattr(given.call, value[0]) + value[1]
        elif name in given.arrays or name == "workspace":
            value = value and getattr(given.call, name) + value
        setattr(given.call, name, value)
    before = given.memory()
    assert given.run() == number
    assert given.memory() == before
    asked = api.workspace(given.pass_number, given.call)
    assert asked == -number or asked >= 0
    assert len(api.strerror(number)) > 5


@pytest.mark.parametrize("what", ctypes_consumer.PASSES)
@pytest.mark.parametrize("shape", [(16, 64, 9), (16, 700, 9), (16, 16, 63), (6, 3, 5000), (3, 5000, 1), (300, 5, 1)])
def test_the_workspace_is_as_large_as_was_said_whatever_the_mask(what, shape):
    """It is said before anybody has looked at the mask: one of which all count is none."""
    outer, channels, inner = shape
    for mask in (np.ones(outer * inner, bool), np.arange(outer * inner) % 7 > 0):
        given = Forward(what, *shape, threads=1)
        given.call.mask = mask.ctypes.data
        size = api.workspace(given.pass_number, given.call)
        given.call.workspace_size = size - 1
        assert size == 0 or given.run() == ctypes_consumer.STATUSES.index("SMALL_WORKSPACE")
        given.call.workspace_size = size
        assert given.run() == 0
        assert given.room.tobytes()[size:] == given.room[-1:].tobytes() * (len(given.room) - size // 8)


def test_every_status_has_been_met():
    assert {"OK", *REFUSED} == set(ctypes_consumer.STATUSES)
    assert Forward().run() == 0
    assert api.strerror(0) == b"no error"
    assert api.strerror(-1) == api.strerror(len(ctypes_consumer.STATUSES)) == b"no such status"


def test_no_call_and_no_such_pass():
    bad = ctypes_consumer.STATUSES.index("BAD_CALL")
    given = Forward()
    assert api.run(0, None) == bad
    assert api.workspace(0, None) == -bad
    for number in (-1, 5, 2**31 - 1):
        assert api.run(number, given.call) == bad
        assert api.workspace(number, given.call) == -bad


def test_merge_refuses():
    vectors = [np.full(2, 77.0) for _ in range(4)]
    pointers = [vector.ctypes.data for vector in vectors]
    shape, missing = map(ctypes_consumer.STATUSES.index, ("BAD_SHAPE", "MISSING"))
    assert api.merge(-1, 1, *pointers[:2], 1, *pointers[2:]) == shape
    assert api.merge(2, -1, *pointers[:2], 1, *pointers[2:]) == shape
    assert api.merge(2, 1, *pointers[:2], -1, *pointers[2:]) == shape
    assert api.merge(2, 1, *pointers[:2], 1, pointers[2], None) == missing
    assert api.merge(0, 1, None, None, 1, None, None) == 0
    assert all((vector == 77).all() for vector in vectors)


def first_size():
    """Of a bnfast_call in the first version."""
    last = ctypes_consumer.Call.workspace_size
    return last.offset + last.size


@pytest.mark.parametrize("size", range(first_size(), ctypes.sizeof(ctypes_consumer.Call) + 1, 8))
def test_a_shorter_call_is_read_as_zeros(size):
    """What follows the caller's struct is not the library's to look at."""
    whole, short = Forward(), Forward()
    assert whole.run() == 0
    memory = (ctypes.c_char * (ctypes.sizeof(ctypes_consumer.Call) + 64))()
    ctypes.memset(memory, 0xFF, len(memory))
    short.call.struct_size = size
    ctypes.memmove(memory, ctypes.byref(short.call), size)
    call = ctypes.cast(memory, ctypes.POINTER(ctypes_consumer.Call))
    assert api.run(short.pass_number, call) == 0
    assert whole.arrays["out"].tobytes() == short.arrays["out"].tobytes()


@pytest.mark.parametrize("size", [0, 8, first_size() - 1, ctypes.sizeof(ctypes_consumer.Call) + 1, 1 << 40, -1])
def test_a_size_that_no_version_had(size):
    given = Forward()
    given.call.struct_size = size
    before = given.memory()
    assert given.run() == ctypes_consumer.STATUSES.index("BAD_CALL")
    assert given.memory() == before


def test_fuzzer_finds_nothing():
    said = run(sys.executable, CONSUMERS / "fuzz.py", "--seconds", 2, "--seed", 20)
    assert int(said.split()[0]) > 200
    run(sys.executable, CONSUMERS / "fuzz.py", "--seed", 101, "--case", 542198)  # no channels, but 64 groups of them


def test_readme_snippets_compile(tmp_path):
    text = (CONSUMERS.parent.parent / "README.md").read_text()
    (tmp_path / "c.c").write_text(re.search(r"```c\n(.*?)```", text, re.S)[1])
    (tmp_path / "cy.pyx").write_text(re.search(r"```cython\n(.*?)```", text, re.S)[1])
    run(sys.executable, "-m", "cython", "-3", "-Werror", "cy.pyx", cwd=tmp_path)
    include = [PYTHON, f"-I{bnfast.get_include()}"]
    run("cc", "-Wall", "-Werror", *include, "-fsyntax-only", "c.c", cwd=tmp_path)
    run("cc", *include, "-O1", "-shared", "-fPIC", "cy.c", "-o", "cy.so", cwd=tmp_path)
    code = """import numpy as np, cy, bnfast
for rows, channels in (4, 3), (256, 1024), (3, 5000):
    x, m, v = np.ones((rows, channels), "f"), np.arange(channels, dtype=float), np.full(channels, 4.0)
    y = np.empty_like(x)
    cy.infer(x, y, m, v)
    print(y.tobytes() == bnfast.normalize(x, m, v).tobytes())"""
    assert run(sys.executable, "-c", code, cwd=tmp_path) == 3 * "True\n"
