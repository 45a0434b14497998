"""bnfast's C face called through ctypes: nothing is compiled. The structures are include/bnfast.h, field by field.

    run("forward", {"outer": 8, "channels": 16, "inner": 64, "eps": 1e-5}, {"x": x, "out": y, "mean": m, "m2": s})
    merge(count, mean, m2, other_count, other_mean, other_m2)

Arrays are any objects with a writable buffer; the names are those of bnfast_call's fields, and what is not named is 0.
ctypes releases the GIL while it calls. The numbers of bnfast.h's enums, as the header counts them, are below.
"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p

from bnfast import _call

ABI_VERSION, API_VERSION = 1, 1  # of the header that this was written after
PASSES = ("moments", "forward", "normalize", "backward", "normalize_backward")
FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = range(4)
BATCH, GROUP, LAYER, RMS = range(4)
STATUSES = (
    *("OK", "BAD_CALL", "BAD_DTYPE", "BAD_NORM", "BAD_SHAPE", "BAD_GROUPS", "BAD_COUNT", "BAD_EPS", "BAD_THREADS"),
    *("BAD_VARIANCE", "MISSING", "MISALIGNED", "OVERLAP", "SMALL_WORKSPACE"),
)
ITEMS = 4, 8, 2, 2  # bytes, by dtype
ELEMENTS = "x", "dy", "residual", "y", "out", "dresidual"
PARAMS = "gamma", "beta", "dgamma", "dbeta"
STATISTICS = "mean", "m2", "var"


class Call(Structure):
    _fields_ = (
        ("struct_size", c_int64),
        *[(name, c_int32) for name in ("dtype", "param_dtype", "norm", "relu", "threads", "reserved")],
        *[(name, c_int64) for name in ("samples", "outer", "channels", "inner", "groups")],
        ("eps", c_double),
        *[(name, c_void_p) for name in (*ELEMENTS, *PARAMS, *STATISTICS, "workspace")],
        ("workspace_size", c_int64),
        ("mask", c_void_p),
    )


class Api(Structure):
    _fields_ = (
        ("abi_version", c_int32),
        ("api_version", c_int32),
        ("struct_size", c_int64),
        ("run", CFUNCTYPE(c_int, c_int, POINTER(Call))),
        ("workspace", CFUNCTYPE(c_int64, c_int, POINTER(Call))),
        ("strerror", CFUNCTYPE(c_char_p, c_int)),
        ("merge", CFUNCTYPE(c_int, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_void_p)),
        ("threads", CFUNCTYPE(c_int, c_int64, c_int)),
    )


def load():
    """The table of functions, found as bnfast_import() finds it."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = POINTER(Api), [ctypes.py_object, c_char_p]
    found = pointer(_call.api, b"bnfast._call.api").contents
    if found.abi_version != ABI_VERSION or found.api_version < API_VERSION:
        raise ImportError(f"bnfast has ABI {found.abi_version}, API {found.api_version}")
    return found


api = load()


def address(buffer):
    """Where the memory of a writable buffer begins; ctypes does not reach the others."""
    return ctypes.addressof((ctypes.c_char * memoryview(buffer).nbytes).from_buffer(buffer))


def describe(numbers, arrays):
    """A Call; `arrays` must outlive it. Sizes are checked."""
    call = Call(struct_size=ctypes.sizeof(Call), **{"eps": 1e-5, **numbers})
    sizes = None
    for name, array in arrays.items():
        if array is None:
            continue
        sizes = sizes or bytes_of(call)
        got, wants = memoryview(array).nbytes, sizes[name]
        if got != wants:
            raise ValueError(f"{name}: got {got} bytes, wants {wants}")
        setattr(call, name, address(array))
    return call


def bytes_of(call):
    """{array's name: bytes that the shape says}"""
    samples = call.samples or 1
    elements = samples * call.outer * call.channels * call.inner * ITEMS[call.dtype]
    params = (call.inner if call.norm in (LAYER, RMS) else call.channels) * ITEMS[call.param_dtype]
    statistics = 8 * (samples * call.groups if call.norm == GROUP else call.channels)
    return {
        **dict.fromkeys(ELEMENTS, elements),
        **dict.fromkeys(PARAMS, params),
        **dict.fromkeys(STATISTICS, statistics),
        "mask": call.outer * call.inner,
    }


def run(what, numbers, arrays):
    """One pass; a status becomes a ValueError with its words."""
    number, call = PASSES.index(what), describe(numbers, arrays)
    need = api.workspace(number, call)
    check(-need)
    room = (c_int64 * (-(-need // 8)))()  # at a multiple of 8
    call.workspace, call.workspace_size = ctypes.addressof(room), need
    check(api.run(number, call))


def merge(count, mean, m2, other_count, other_mean, other_m2):
    """Merges the second moments into the first."""
    vectors = mean, m2, other_mean, other_m2
    if len({memoryview(vector).nbytes for vector in vectors}) > 1:
        raise ValueError("mean and m2: not of one length")
    a, b, c, d = map(address, vectors)
    check(api.merge(memoryview(mean).nbytes // 8, count, a, b, other_count, c, d))


def check(status):
    if status > 0:
        raise ValueError(api.strerror(status).decode())
