/* Counts the threads inside a PKCS#11 module, so that C_Finalize is never called while one is inside. */
#include "native.h"

#include <time.h>

enum { NANOSECONDS = 1000000000, MAXIMUM_SECONDS = 1000000 };

bool module_lock_enter(ModuleLock *module_lock, unsigned long generation) {
    pthread_mutex_lock(&module_lock->mutex);
    bool open = !module_lock->closed && module_lock->generation == generation;
    if (open) module_lock->inside++;
    pthread_mutex_unlock(&module_lock->mutex);
    return open;
}

void module_lock_leave(ModuleLock *module_lock) {
    pthread_mutex_lock(&module_lock->mutex);
    module_lock->inside--;
    if (module_lock->inside == 0 && module_lock->closed) pthread_cond_broadcast(&module_lock->emptied);
    pthread_mutex_unlock(&module_lock->mutex);
}

static PyObject *module_lock_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(keywords)) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ModuleLock *module_lock = (ModuleLock *)allocate(type, 0);
    if (module_lock == NULL) return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&module_lock->mutex, NULL);
    pthread_cond_init(&module_lock->emptied, &attributes);
    pthread_condattr_destroy(&attributes);
    return (PyObject *)module_lock;
}

static void module_lock_dealloc(PyObject *self) {
    ModuleLock *module_lock = (ModuleLock *)self;
    pthread_cond_destroy(&module_lock->emptied);
    pthread_mutex_destroy(&module_lock->mutex);
    free_instance(self);
}

static PyObject *enter(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    ModuleLock *module_lock = (ModuleLock *)self;
    pthread_mutex_lock(&module_lock->mutex);
    bool open = !module_lock->closed;
    if (open) module_lock->inside++;
    pthread_mutex_unlock(&module_lock->mutex);
    return PyBool_FromLong(open);
}

static PyObject *leave(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    ModuleLock *module_lock = (ModuleLock *)self;
    pthread_mutex_lock(&module_lock->mutex);
    bool inside = module_lock->inside > 0;
    pthread_mutex_unlock(&module_lock->mutex);
    if (!inside) {
        PyErr_SetString(PyExc_RuntimeError, "no thread is inside");
        return NULL;
    }
    module_lock_leave(module_lock);
    Py_RETURN_NONE;
}

static struct timespec seconds_from_now(double seconds) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (seconds < 0) seconds = 0;
    end.tv_sec += (time_t)seconds;
    end.tv_nsec += (long)((seconds - (double)(time_t)seconds) * NANOSECONDS);
    if (end.tv_nsec >= NANOSECONDS) {
        end.tv_sec++;
        end.tv_nsec -= NANOSECONDS;
    }
    return end;
}

static PyObject *shut(PyObject *self, PyObject *argument) {
    ModuleLock *module_lock = (ModuleLock *)self;
    double seconds = PyFloat_AsDouble(argument);
    if (PyErr_Occurred()) return NULL;
    if (!(seconds <= MAXIMUM_SECONDS)) { /* also true for NaN */
        PyErr_SetString(PyExc_ValueError, "expected at most 1,000,000 seconds");
        return NULL;
    }
    struct timespec end = seconds_from_now(seconds);
    bool empty;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&module_lock->mutex);
    module_lock->closed = true;
    int outcome = 0;
    while (module_lock->inside > 0 && outcome == 0) {
        outcome = pthread_cond_timedwait(&module_lock->emptied, &module_lock->mutex, &end);
    }
    empty = module_lock->inside == 0;
    pthread_mutex_unlock(&module_lock->mutex);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(empty);
}

static PyObject *reopen(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    ModuleLock *module_lock = (ModuleLock *)self;
    pthread_mutex_lock(&module_lock->mutex);
    module_lock->closed = false;
    pthread_mutex_unlock(&module_lock->mutex);
    Py_RETURN_NONE;
}

static PyObject *renew(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    ModuleLock *module_lock = (ModuleLock *)self;
    pthread_mutex_lock(&module_lock->mutex);
    module_lock->generation++;
    pthread_mutex_unlock(&module_lock->mutex);
    Py_RETURN_NONE;
}

static PyObject *get_generation(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(((ModuleLock *)self)->generation);
}

static PyMethodDef methods[] = {
    {"enter", enter, METH_NOARGS, "Enter; False if the lock is closed."},
    {"leave", leave, METH_NOARGS, "Leave."},
    {"close", shut, METH_O, "close(seconds): close it; returns whether all threads have left within this time."},
    {"open", reopen, METH_NOARGS, "Open it again."},
    {"renew", renew, METH_NOARGS, "Count that the module is initialised again: sessions opened before are invalid."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"generation", get_generation, NULL, "The number of times that the module was initialised again.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Counts the threads inside a module; closed while the module is initialised again."},
    {Py_tp_new, module_lock_new},
    {Py_tp_dealloc, module_lock_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

PyType_Spec ModuleLock_Spec = {
    .name = "xksproxy.hsm._native.ModuleLock",
    .basicsize = sizeof(ModuleLock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
