/* c_consumer.c: a C extension that calls bnfast without Python and without the GIL. NumPy is not needed: arrays come as
   any objects with a buffer. Only the limited API is used, so one build serves every Python from 3.11 on.

     run("forward", {"outer": 8, "channels": 16, "inner": 64, "eps": 1e-5}, {"x": x, "out": y, "mean": m, "m2": s})
     run_together("forward", numbers, [arrays, arrays, ...])       the calls at once, one on each thread of OpenMP
     merge(count, mean, m2, other_count, other_mean, other_m2)

   The names are those of bnfast_call's fields; what is not named is 0. setup.py builds it. */
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* free-threaded Pythons have no limited API */
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <bnfast.h>

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int pass;
    int (*call)(const bnfast_call *);
} PASSES[] = {
    {"moments", BNFAST_MOMENTS, bnfast_moments},
    {"forward", BNFAST_FORWARD, bnfast_forward},
    {"normalize", BNFAST_NORMALIZE, bnfast_normalize},
    {"backward", BNFAST_BACKWARD, bnfast_backward},
    {"normalize_backward", BNFAST_NORMALIZE_BACKWARD, bnfast_normalize_backward},
};

static const struct {
    const char *name;
    size_t at;
    int wide; /* int64_t, not int32_t */
} NUMBERS[] = {
    {"dtype", offsetof(bnfast_call, dtype), 0},       {"param_dtype", offsetof(bnfast_call, param_dtype), 0},
    {"norm", offsetof(bnfast_call, norm), 0},         {"relu", offsetof(bnfast_call, relu), 0},
    {"threads", offsetof(bnfast_call, threads), 0},   {"samples", offsetof(bnfast_call, samples), 1},
    {"outer", offsetof(bnfast_call, outer), 1},       {"channels", offsetof(bnfast_call, channels), 1},
    {"inner", offsetof(bnfast_call, inner), 1},       {"groups", offsetof(bnfast_call, groups), 1},
};

enum { ELEMENTS, PARAMS, STATISTICS, POSITIONS };
static const struct {
    const char *name;
    size_t at;
    int size, written; /* written: 2, by moments and forward only */
} ARRAYS[] = {
    {"x", offsetof(bnfast_call, x), ELEMENTS, 0},
    {"dy", offsetof(bnfast_call, dy), ELEMENTS, 0},
    {"residual", offsetof(bnfast_call, residual), ELEMENTS, 0},
    {"y", offsetof(bnfast_call, y), ELEMENTS, 0},
    {"out", offsetof(bnfast_call, out), ELEMENTS, 1},
    {"dresidual", offsetof(bnfast_call, dresidual), ELEMENTS, 1},
    {"gamma", offsetof(bnfast_call, gamma), PARAMS, 0},
    {"beta", offsetof(bnfast_call, beta), PARAMS, 0},
    {"dgamma", offsetof(bnfast_call, dgamma), PARAMS, 1},
    {"dbeta", offsetof(bnfast_call, dbeta), PARAMS, 1},
    {"mean", offsetof(bnfast_call, mean), STATISTICS, 2},
    {"m2", offsetof(bnfast_call, m2), STATISTICS, 2},
    {"var", offsetof(bnfast_call, var), STATISTICS, 0},
    {"mask", offsetof(bnfast_call, mask), POSITIONS, 0},
};
enum { COUNT = sizeof ARRAYS / sizeof *ARRAYS };

typedef struct {
    bnfast_call call;
    Py_buffer views[COUNT]; /* obj is NULL where there is no array */
} described;

static void release(described *d) {
    for (int i = 0; i < COUNT; i++)
        if (d->views[i].obj) PyBuffer_Release(&d->views[i]);
    free(d->call.workspace);
}

static PyObject *refuse(int status) {
    PyErr_SetString(PyExc_ValueError, bnfast_strerror(status));
    return NULL;
}

/* From the objects to a call that is ready to run; 0, or -1 with an exception set. release() either way. */
static int describe(described *d, int pass, PyObject *numbers, PyObject *arrays) {
    bnfast_call *call = &d->call;
    memset(d, 0, sizeof *d);
    call->struct_size = sizeof *call;
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        PyObject *given = PyDict_GetItemString(numbers, NUMBERS[i].name);
        const int64_t value = given ? PyLong_AsLongLong(given) : 0;
        const int32_t narrow = (int32_t)value;
        if (PyErr_Occurred()) return -1;
        memcpy((char *)call + NUMBERS[i].at, NUMBERS[i].wide ? (const void *)&value : &narrow, NUMBERS[i].wide ? 8 : 4);
    }
    PyObject *eps = PyDict_GetItemString(numbers, "eps");
    call->eps = eps ? PyFloat_AsDouble(eps) : 1e-5;
    if (PyErr_Occurred()) return -1;

    /* The shape is asked about before the pointers are there: if it is good, the products below do not overflow. */
    const int64_t need = bnfast_workspace(pass, call);
    if (need < 0) return refuse((int)-need), -1;
    static const int64_t items[] = {4, 8, 2, 2}; /* by dtype */
    const int per_element = call->norm == BNFAST_LAYER || call->norm == BNFAST_RMS;
    const int64_t samples = call->samples ? call->samples : 1;
    const int64_t sizes[] = {
        [ELEMENTS] = samples * call->outer * call->channels * call->inner * items[call->dtype],
        [PARAMS] = (per_element ? call->inner : call->channels) * items[call->param_dtype],
        [STATISTICS] = (call->norm == BNFAST_GROUP ? samples * call->groups : call->channels) * 8,
        [POSITIONS] = call->outer * call->inner,
    };
    for (int i = 0; i < COUNT; i++) {
        PyObject *given = PyDict_GetItemString(arrays, ARRAYS[i].name);
        Py_buffer *view = &d->views[i];
        const int written = ARRAYS[i].written == 1 || (ARRAYS[i].written && pass <= BNFAST_FORWARD);
        if (!given || given == Py_None) continue;
        if (PyObject_GetBuffer(given, view, written ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return -1;
        if (view->len != sizes[ARRAYS[i].size]) {
            PyErr_Format(PyExc_ValueError, "%s: got %zd bytes, wants %lld", ARRAYS[i].name, view->len,
                         (long long)sizes[ARRAYS[i].size]);
            return -1;
        }
        memcpy((char *)call + ARRAYS[i].at, &view->buf, sizeof view->buf);
    }
    call->workspace_size = need;
    call->workspace = need ? malloc((size_t)need) : NULL;
    if (need && !call->workspace) return PyErr_NoMemory(), -1;
    return 0;
}

static int find(const char *what) {
    for (int i = 0; i < (int)(sizeof PASSES / sizeof *PASSES); i++)
        if (!strcmp(what, PASSES[i].name)) return i;
    PyErr_Format(PyExc_ValueError, "no such pass: %s", what);
    return -1;
}

static PyObject *run(PyObject *module, PyObject *args) {
    PyObject *numbers, *arrays, *result = NULL;
    const char *what;
    described d;
    int at;
    (void)module;
    if (!PyArg_ParseTuple(args, "sO!O!", &what, &PyDict_Type, &numbers, &PyDict_Type, &arrays)) return NULL;
    if ((at = find(what)) < 0) return NULL;
    if (describe(&d, PASSES[at].pass, numbers, arrays) == 0) {
        int status;
        Py_BEGIN_ALLOW_THREADS
        status = PASSES[at].call(&d.call);
        Py_END_ALLOW_THREADS
        result = status ? refuse(status) : Py_NewRef(Py_None);
    }
    release(&d);
    return result;
}

/* Inside a parallel region each call keeps to its own thread, whatever its `threads` says. */
static PyObject *run_together(PyObject *module, PyObject *args) {
    PyObject *numbers, *list, *result = NULL;
    const char *what;
    Py_ssize_t count, ready = 0;
    int at, status = BNFAST_OK;
    (void)module;
    if (!PyArg_ParseTuple(args, "sO!O!", &what, &PyDict_Type, &numbers, &PyList_Type, &list)) return NULL;
    if ((at = find(what)) < 0) return NULL;
    count = PyList_Size(list);
    described *each = calloc((size_t)count + 1, sizeof *each);
    if (!each) return PyErr_NoMemory();
    while (ready < count && describe(&each[ready], PASSES[at].pass, numbers, PyList_GetItem(list, ready)) == 0) ready++;
    if (ready == count) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(4) schedule(static, 1) reduction(max : status)
        for (Py_ssize_t i = 0; i < count; i++) {
            const int one = PASSES[at].call(&each[i].call);
            if (one > status) status = one;
        }
        Py_END_ALLOW_THREADS
        result = status ? refuse(status) : Py_NewRef(Py_None);
    }
    for (Py_ssize_t i = 0; i < count; i++) release(&each[i]); /* those not described are all zeros */
    free(each);
    return result;
}

static PyObject *merge(PyObject *module, PyObject *args) {
    Py_buffer v[4];
    long long count, other;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "Lw*w*Ly*y*", &count, &v[0], &v[1], &other, &v[2], &v[3])) return NULL;
    if (v[1].len == v[0].len && v[2].len == v[0].len && v[3].len == v[0].len) {
        const int status = bnfast_merge(v[0].len / 8, count, v[0].buf, v[1].buf, other, v[2].buf, v[3].buf);
        result = status ? refuse(status) : Py_NewRef(Py_None);
    } else {
        PyErr_SetString(PyExc_ValueError, "mean and m2: not of one length");
    }
    for (int i = 0; i < 4; i++) PyBuffer_Release(&v[i]);
    return result;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(pass, numbers, arrays)"},
    {"run_together", run_together, METH_VARARGS, "run_together(pass, numbers, list of arrays)"},
    {"merge", merge, METH_VARARGS, "merge(count, mean, m2, other_count, other_mean, other_m2)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "c_consumer", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_c_consumer(void);
PyMODINIT_FUNC PyInit_c_consumer(void) {
    if (bnfast_import() < 0) return NULL; /* another ABI, or an older library: ImportError */
    PyObject *made = PyModule_Create(&module);
#ifdef Py_GIL_DISABLED
    if (made != NULL) PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
