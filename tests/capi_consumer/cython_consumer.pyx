# cython: language_level=3, freethreading_compatible=True
"""A Cython extension that calls bnfast without Python and without the GIL. Arrays come as any objects with a buffer.

    forward(x, out, outer, channels, inner, mean, m2)         the plain case: float32, batch norm, typed memoryviews
    run("forward", {"outer": 8, ...}, {"x": x, "out": y, ...})     every pass and option, by the names of bnfast_call
    merge(count, mean, m2, other_count, other_mean, other_m2)
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport bnfast

bnfast.import_bnfast()  # another ABI, or an older library: ImportError

PASSES = {
    "moments": bnfast.BNFAST_MOMENTS,
    "forward": bnfast.BNFAST_FORWARD,
    "normalize": bnfast.BNFAST_NORMALIZE,
    "backward": bnfast.BNFAST_BACKWARD,
    "normalize_backward": bnfast.BNFAST_NORMALIZE_BACKWARD,
}


def forward(const float[::1] x, float[::1] out, int64_t outer, int64_t channels, int64_t inner,
            double[::1] mean, double[::1] m2):
    """Training: normalizes x, which is (outer, channels, inner), into out; its statistics into mean and m2."""
    cdef bnfast.bnfast_call call
    cdef int status
    if not x.shape[0] == out.shape[0] == outer * channels * inner or not mean.shape[0] == m2.shape[0] == channels:
        raise ValueError("not the sizes of (outer, channels, inner)")
    memset(&call, 0, sizeof(call))  # what is not set is 0: the plain thing
    call.struct_size = sizeof(call)
    call.outer, call.channels, call.inner, call.eps = outer, channels, inner, 1e-5
    call.x, call.out, call.mean, call.m2 = &x[0], &out[0], &mean[0], &m2[0]
    with nogil:
        status = reserve_and_call(bnfast.BNFAST_FORWARD, &call, 1)
    check(status)


def run(str what, dict numbers, dict arrays, int64_t times=1):
    """A pass, so many times over."""
    cdef bnfast.bnfast_call call
    cdef int op = PASSES[what], status
    cdef Views views = Views()
    get = numbers.get
    memset(&call, 0, sizeof(call))
    call.struct_size = sizeof(call)
    call.dtype, call.param_dtype, call.norm = get("dtype", 0), get("param_dtype", 0), get("norm", 0)
    call.relu, call.threads, call.samples = get("relu", 0), get("threads", 0), get("samples", 0)
    call.outer, call.channels, call.inner = get("outer", 0), get("channels", 0), get("inner", 0)
    call.groups, call.eps = get("groups", 0), get("eps", 1e-5)
    check(-bnfast.bnfast_workspace(op, &call))  # a shape that is no good is found before its sizes are computed with
    views.measure(&call)
    find = arrays.get
    call.x = views.of("x", find("x"), views.elements, False)
    call.dy = views.of("dy", find("dy"), views.elements, False)
    call.residual = views.of("residual", find("residual"), views.elements, False)
    call.y = views.of("y", find("y"), views.elements, False)
    call.out = views.of("out", find("out"), views.elements, True)
    call.dresidual = views.of("dresidual", find("dresidual"), views.elements, True)
    call.gamma = views.of("gamma", find("gamma"), views.params, False)
    call.beta = views.of("beta", find("beta"), views.params, False)
    call.dgamma = views.of("dgamma", find("dgamma"), views.params, True)
    call.dbeta = views.of("dbeta", find("dbeta"), views.params, True)
    call.mean = <double *> views.of("mean", find("mean"), views.statistics, op <= bnfast.BNFAST_FORWARD)
    call.m2 = <double *> views.of("m2", find("m2"), views.statistics, op <= bnfast.BNFAST_FORWARD)
    call.var = <const double *> views.of("var", find("var"), views.statistics, False)
    call.mask = <const uint8_t *> views.of("mask", find("mask"), views.positions, False)
    with nogil:
        status = reserve_and_call(op, &call, times)
    check(status)


def merge(int64_t count, double[::1] mean, double[::1] m2, int64_t other_count, const double[::1] other_mean,
          const double[::1] other_m2):
    """Merges the second moments into the first."""
    if not mean.shape[0] == m2.shape[0] == other_mean.shape[0] == other_m2.shape[0]:
        raise ValueError("mean and m2: not of one length")
    if mean.shape[0]:
        check(bnfast.bnfast_merge(mean.shape[0], count, &mean[0], &m2[0], other_count, &other_mean[0], &other_m2[0]))


cdef int reserve_and_call(int op, bnfast.bnfast_call *call, int64_t times) noexcept nogil:
    """No Python here: this may run on any thread."""
    cdef int status = bnfast.BNFAST_OK
    cdef int64_t _i
    call.workspace_size = bnfast.bnfast_workspace(op, call)
    if call.workspace_size < 0:
        return <int> -call.workspace_size
    call.workspace = malloc(call.workspace_size) if call.workspace_size else NULL  # none: BNFAST_MISSING follows
    for _i in range(times):
        if op == bnfast.BNFAST_MOMENTS:
            status = bnfast.bnfast_moments(call)
        elif op == bnfast.BNFAST_FORWARD:
            status = bnfast.bnfast_forward(call)
        elif op == bnfast.BNFAST_NORMALIZE:
            status = bnfast.bnfast_normalize(call)
        elif op == bnfast.BNFAST_BACKWARD:
            status = bnfast.bnfast_backward(call)
        else:
            status = bnfast.bnfast_normalize_backward(call)
        if status != bnfast.BNFAST_OK:
            break
    free(call.workspace)
    return status


cdef check(int64_t status):
    if status > 0:
        raise ValueError(bnfast.bnfast_strerror(<int> status).decode())


cdef class Views:
    """The buffers of a call, held until it is over, each of the size that the call's shape says."""
    cdef Py_buffer views[16]
    cdef int count
    cdef int64_t elements, params, statistics, positions  # in bytes

    cdef void measure(self, const bnfast.bnfast_call *call) noexcept:
        cdef int64_t[4] items = [4, 8, 2, 2]  # by dtype
        cdef int64_t samples = call.samples if call.samples else 1
        cdef bint per_element = call.norm == bnfast.BNFAST_LAYER or call.norm == bnfast.BNFAST_RMS
        self.elements = samples * call.outer * call.channels * call.inner * items[call.dtype]
        self.params = (call.inner if per_element else call.channels) * items[call.param_dtype]
        self.statistics = (samples * call.groups if call.norm == bnfast.BNFAST_GROUP else call.channels) * 8
        self.positions = call.outer * call.inner

    cdef void *of(self, str name, given, int64_t size, bint written) except? NULL:
        """Where a buffer's memory begins; NULL for None."""
        if given is None:
            return NULL
        cdef Py_buffer *view = &self.views[self.count]
        PyObject_GetBuffer(given, view, PyBUF_WRITABLE if written else PyBUF_SIMPLE)
        self.count += 1
        if view.len != size:
            raise ValueError(f"{name}: got {view.len} bytes, wants {size}")
        return view.buf

    def __dealloc__(self):
        while self.count:
            self.count -= 1
            PyBuffer_Release(&self.views[self.count])
