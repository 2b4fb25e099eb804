/* The extension module xksproxy.hsm._native: its types, and what they share. */
#include "native.h"

#include <time.h>

PyTypeObject *ModuleLock_Type, *Call_Type, *NativeSession_Type, *CallQueue_Type, *Flow_Type;

double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void free_instance(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int execute(PyObject *module) {
    if (add_type(module, &ModuleLock_Spec, &ModuleLock_Type) < 0 || add_type(module, &Call_Spec, &Call_Type) < 0 ||
        add_type(module, &NativeSession_Spec, &NativeSession_Type) < 0 ||
        add_type(module, &CallQueue_Spec, &CallQueue_Type) < 0 || add_type(module, &Flow_Spec, &Flow_Type) < 0) {
        return -1;
    }
    return 0;
}

static PyMethodDef functions[] = {
    {"load_function_list", load_function_list, METH_O,
     "Load a shared object and call its C_GetFunctionList. Returns the return value, and the address of the list or 0."},
    {"offer_function_list", offer_function_list, METH_O,
     "Let this thread's next C_GetFunctionList of this shared object return the list at an address."},
    {"claim_bucket", claim_bucket, METH_VARARGS,
     "claim_bucket(buckets, key): the number of the bucket of a key, which is claimed if there is none; -1 if none is free."},
    {"take_token", take_token, METH_VARARGS,
     "take_token(buckets, number, interval, capacity, now): take a token, if there is one; times in nanoseconds."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "xksproxy.hsm._native",
    .m_doc = "AES-GCM calls of HSM sessions, made without the interpreter.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
