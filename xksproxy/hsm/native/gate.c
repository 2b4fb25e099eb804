/* Counting the threads inside a PKCS#11 module, so that it is never finalised under one. */
#include "crossing.h"

#include <time.h>

enum { NANOSECONDS = 1000000000, MAXIMUM_SECONDS = 1000000 };

bool gate_enter(Gate *gate, unsigned long generation) {
    pthread_mutex_lock(&gate->mutex);
    bool open = !gate->closed && gate->generation == generation;
    if (open) gate->inside++;
    pthread_mutex_unlock(&gate->mutex);
    return open;
}

void gate_leave(Gate *gate) {
    pthread_mutex_lock(&gate->mutex);
    gate->inside--;
    if (gate->inside == 0 && gate->closed) pthread_cond_broadcast(&gate->emptied);
    pthread_mutex_unlock(&gate->mutex);
}

static PyObject *gate_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(keywords)) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Gate *gate = (Gate *)allocate(type, 0);
    if (gate == NULL) return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&gate->mutex, NULL);
    pthread_cond_init(&gate->emptied, &attributes);
    pthread_condattr_destroy(&attributes);
    return (PyObject *)gate;
}

static void gate_dealloc(PyObject *self) {
    Gate *gate = (Gate *)self;
    pthread_cond_destroy(&gate->emptied);
    pthread_mutex_destroy(&gate->mutex);
    free_instance(self);
}

static PyObject *enter(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Gate *gate = (Gate *)self;
    pthread_mutex_lock(&gate->mutex);
    bool open = !gate->closed;
    if (open) gate->inside++;
    pthread_mutex_unlock(&gate->mutex);
    return PyBool_FromLong(open);
}

static PyObject *leave(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Gate *gate = (Gate *)self;
    pthread_mutex_lock(&gate->mutex);
    bool inside = gate->inside > 0;
    pthread_mutex_unlock(&gate->mutex);
    if (!inside) {
        PyErr_SetString(PyExc_RuntimeError, "nobody is inside");
        return NULL;
    }
    gate_leave(gate);
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
    Gate *gate = (Gate *)self;
    double seconds = PyFloat_AsDouble(argument);
    if (PyErr_Occurred()) return NULL;
    if (!(seconds <= MAXIMUM_SECONDS)) { /* nor if it is no number */
        PyErr_SetString(PyExc_ValueError, "expected at most 1,000,000 seconds");
        return NULL;
    }
    struct timespec end = seconds_from_now(seconds);
    bool empty;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&gate->mutex);
    gate->closed = true;
    int outcome = 0;
    while (gate->inside > 0 && outcome == 0) {
        outcome = pthread_cond_timedwait(&gate->emptied, &gate->mutex, &end);
    }
    empty = gate->inside == 0;
    pthread_mutex_unlock(&gate->mutex);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(empty);
}

static PyObject *reopen(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Gate *gate = (Gate *)self;
    pthread_mutex_lock(&gate->mutex);
    gate->closed = false;
    pthread_mutex_unlock(&gate->mutex);
    Py_RETURN_NONE;
}

static PyObject *renew(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Gate *gate = (Gate *)self;
    pthread_mutex_lock(&gate->mutex);
    gate->generation++;
    pthread_mutex_unlock(&gate->mutex);
    Py_RETURN_NONE;
}

static PyObject *get_generation(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(((Gate *)self)->generation);
}

static PyMethodDef methods[] = {
    {"enter", enter, METH_NOARGS, "Be inside; False if the gate is closed."},
    {"leave", leave, METH_NOARGS, "Be inside no more."},
    {"close", shut, METH_O, "Let nobody in; whether all had left within so many seconds."},
    {"open", reopen, METH_NOARGS, "Let threads in again."},
    {"renew", renew, METH_NOARGS, "Void the sessions that were opened so far."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"generation", get_generation, NULL, "How often the module was initialised again.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What a thread passes to be inside a module; closed while that is initialised again."},
    {Py_tp_new, gate_new},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

PyType_Spec Gate_Spec = {
    .name = "xksproxy.hsm._crossing.Gate",
    .basicsize = sizeof(Gate),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
