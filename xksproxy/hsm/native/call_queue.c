/* Calls that wait for a session worker, and finished calls that wait for the event loop. */
#include "native.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    pthread_mutex_t mutex; /* guards the fields below, except the descriptor, which never changes */
    pthread_cond_t filled;
    Flows waiting;  /* holds a reference to its calls, as finished does */
    Chain finished;
    Flow *own_flow; /* of the calls that have none; set once */
    unsigned long idle, ending;
    bool waking; /* an idle worker was signalled and has not run yet */
    int descriptor; /* readable while calls are finished */
} CallQueue;

/* Signal an idle worker if calls wait and no signal is pending; that worker signals the next. Needs the mutex. */
static void wake_one(CallQueue *queue) {
    if (queue->waiting.first == NULL || queue->idle == 0 || queue->waking) return;
    queue->waking = true;
    pthread_cond_signal(&queue->filled);
}

/* Wait for a call and claim it; NULL if the worker must end. */
static Call *claim(CallQueue *queue, long worker) {
    pthread_mutex_lock(&queue->mutex);
    while (queue->waiting.first == NULL && queue->ending == 0) {
        queue->idle++;
        pthread_cond_wait(&queue->filled, &queue->mutex);
        queue->idle--;
        queue->waking = false;
    }
    Call *call = flows_pop(&queue->waiting);
    if (call == NULL) {
        queue->ending--;
    } else {
        call->state = CLAIMED;
        call->worker = worker;
        call->claimed_at = monotonic();
        wake_one(queue);
    }
    pthread_mutex_unlock(&queue->mutex);
    return call;
}

/* Pass a claimed call to the event loop; false if it is not awaited, then the caller keeps it. */
static bool finish_call(CallQueue *queue, Call *call) {
    bool notify = false;
    call->finished_at = monotonic();
    pthread_mutex_lock(&queue->mutex);
    bool awaited = call->state == CLAIMED;
    if (awaited) {
        notify = queue->finished.first == NULL;
        call->state = FINISHED;
        chain_append(&queue->finished, call);
    }
    pthread_mutex_unlock(&queue->mutex);
    uint64_t one = 1;
    while (notify && write(queue->descriptor, &one, sizeof one) < 0 && errno == EINTR) continue;
    return awaited;
}

static PyObject *call_queue_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(keywords)) {
    int descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (descriptor < 0) return PyErr_SetFromErrno(PyExc_OSError);
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    CallQueue *queue = (CallQueue *)allocate(type, 0);
    if (queue == NULL) {
        close(descriptor);
        return NULL;
    }
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->filled, NULL);
    queue->descriptor = descriptor;
    queue->own_flow = flow_of_weight(1);
    if (queue->own_flow == NULL) {
        Py_DECREF((PyObject *)queue);
        return NULL;
    }
    return (PyObject *)queue;
}

static void call_queue_dealloc(PyObject *self) {
    CallQueue *queue = (CallQueue *)self;
    Call *call;
    while ((call = flows_pop(&queue->waiting)) != NULL) Py_DECREF((PyObject *)call);
    while ((call = chain_pop(&queue->finished)) != NULL) Py_DECREF((PyObject *)call);
    Py_XDECREF((PyObject *)queue->own_flow);
    close(queue->descriptor);
    pthread_cond_destroy(&queue->filled);
    pthread_mutex_destroy(&queue->mutex);
    free_instance(self);
}

static bool is_call(PyObject *object) {
    if (PyObject_TypeCheck(object, Call_Type)) return true;
    PyErr_SetString(PyExc_TypeError, "expected a Call");
    return false;
}

/* Whether it is a call of this queue, whose mutex then guards it, or of none yet. */
static bool is_own_call(CallQueue *queue, PyObject *object) {
    if (!is_call(object)) return false;
    Call *call = (Call *)object;
    if (call->queue == NULL || call->queue == queue) return true;
    PyErr_SetString(PyExc_ValueError, "the call belongs to another queue");
    return false;
}

static PyObject *put(PyObject *self, PyObject *arguments) {
    CallQueue *queue = (CallQueue *)self;
    PyObject *object, *flow_object = NULL;
    int calls = 1;
    if (!PyArg_ParseTuple(arguments, "O|Oi", &object, &flow_object, &calls) || !is_call(object)) return NULL;
    Flow *flow = flow_object == NULL ? queue->own_flow : flow_for(queue, flow_object);
    if (flow == NULL) return NULL;
    Call *call = (Call *)object;
    if (call->state != MADE || calls < 1) {
        PyErr_SetString(PyExc_RuntimeError, "a call is put into a queue once, for one or more calls of the module");
        return NULL;
    }
    Py_INCREF(object);
    Py_INCREF((PyObject *)flow);
    pthread_mutex_lock(&queue->mutex);
    call->state = WAITING;
    call->queue = queue;
    call->flow = flow;
    call->calls = calls;
    flows_put(&queue->waiting, flow, call);
    pthread_mutex_unlock(&queue->mutex);
    Py_RETURN_NONE;
}

static PyObject *start_of(PyObject *self, PyObject *object) {
    CallQueue *queue = (CallQueue *)self;
    Flow *flow = flow_for(queue, object);
    if (flow == NULL) return NULL;
    pthread_mutex_lock(&queue->mutex);
    double start = flow->start;
    pthread_mutex_unlock(&queue->mutex);
    return PyFloat_FromDouble(start);
}

static PyObject *turn(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    CallQueue *queue = (CallQueue *)self;
    pthread_mutex_lock(&queue->mutex);
    double time = queue->waiting.time;
    long returned = queue->waiting.returned;
    pthread_mutex_unlock(&queue->mutex);
    return Py_BuildValue("(dl)", time, returned);
}

static PyObject *wake(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    CallQueue *queue = (CallQueue *)self;
    pthread_mutex_lock(&queue->mutex);
    wake_one(queue);
    pthread_mutex_unlock(&queue->mutex);
    Py_RETURN_NONE;
}

static PyObject *get(PyObject *self, PyObject *arguments) {
    CallQueue *queue = (CallQueue *)self;
    long worker;
    PyObject *native_session;
    if (!PyArg_ParseTuple(arguments, "lO", &worker, &native_session)) return NULL;
    if (worker < 0) {
        PyErr_SetString(PyExc_ValueError, "expected a worker's number of 0 or more");
        return NULL;
    }
    if (native_session != Py_None && !PyObject_TypeCheck(native_session, NativeSession_Type)) {
        PyErr_SetString(PyExc_TypeError, "expected a NativeSession or None");
        return NULL;
    }
    NativeSession *native = native_session == Py_None ? NULL : (NativeSession *)native_session;
    Call *call;
    Py_BEGIN_ALLOW_THREADS
    do {
        call = claim(queue, worker);
    } while (call != NULL && native != NULL && native_session_run(native, call) && finish_call(queue, call));
    Py_END_ALLOW_THREADS
    if (call == NULL) Py_RETURN_NONE;
    return (PyObject *)call;
}

static PyObject *finish(PyObject *self, PyObject *object) {
    CallQueue *queue = (CallQueue *)self;
    if (!is_own_call(queue, object)) return NULL;
    Call *call = (Call *)object;
    pthread_mutex_lock(&queue->mutex);
    bool unfinished = call->worker >= 0 && call->state != FINISHED;
    pthread_mutex_unlock(&queue->mutex);
    if (!unfinished) {
        PyErr_SetString(PyExc_RuntimeError, "only a call that a worker has claimed can be finished, and once");
        return NULL;
    }
    Py_INCREF(object);
    bool awaited = finish_call(queue, call);
    if (!awaited) Py_DECREF(object);
    return PyBool_FromLong(awaited);
}

static PyObject *withdraw(PyObject *self, PyObject *object) {
    CallQueue *queue = (CallQueue *)self;
    if (!is_own_call(queue, object)) return NULL;
    Call *call = (Call *)object;
    pthread_mutex_lock(&queue->mutex);
    bool waited = call->state == WAITING && flows_take_out(&queue->waiting, call);
    if (waited) call->state = ABANDONED;
    pthread_mutex_unlock(&queue->mutex);
    if (waited) Py_DECREF(object);
    return PyBool_FromLong(waited);
}

static PyObject *abandon(PyObject *self, PyObject *object) {
    CallQueue *queue = (CallQueue *)self;
    if (!is_own_call(queue, object)) return NULL;
    Call *call = (Call *)object;
    pthread_mutex_lock(&queue->mutex);
    bool claimed = call->state == CLAIMED;
    if (claimed) call->state = ABANDONED;
    pthread_mutex_unlock(&queue->mutex);
    if (!claimed) Py_RETURN_NONE;
    return PyLong_FromLong(call->worker);
}

static PyObject *finished(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    CallQueue *queue = (CallQueue *)self;
    uint64_t count;
    while (read(queue->descriptor, &count, sizeof count) < 0 && errno == EINTR) continue;
    pthread_mutex_lock(&queue->mutex);
    Call *call = queue->finished.first;
    queue->finished.first = queue->finished.last = NULL;
    pthread_mutex_unlock(&queue->mutex);
    PyObject *calls = PyList_New(0);
    bool listed = calls != NULL;
    while (call != NULL) {
        Call *next = call->next;
        listed = listed && PyList_Append(calls, (PyObject *)call) == 0;
        Py_DECREF((PyObject *)call);
        call = next;
    }
    if (!listed) Py_CLEAR(calls);
    return calls;
}

static PyObject *end(PyObject *self, PyObject *argument) {
    CallQueue *queue = (CallQueue *)self;
    long workers = PyLong_AsLong(argument);
    if (PyErr_Occurred()) return NULL;
    if (workers < 0) {
        PyErr_SetString(PyExc_ValueError, "expected a number of workers");
        return NULL;
    }
    pthread_mutex_lock(&queue->mutex);
    queue->ending += (unsigned long)workers;
    pthread_mutex_unlock(&queue->mutex);
    pthread_cond_broadcast(&queue->filled);
    Py_RETURN_NONE;
}

static PyObject *get_fileno(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyLong_FromLong(((CallQueue *)self)->descriptor);
}

static PyMethodDef methods[] = {
    {"fileno", get_fileno, METH_NOARGS, "A descriptor that is readable while calls are finished."},
    {"put", put, METH_VARARGS,
     "put(call[, flow, calls]): queue a call in a flow, as the first of a number of calls. Idle workers see it after wake()."},
    {"start_of", start_of, METH_O, "When the next call of a flow starts, unless that is past; in virtual time, see flow.c."},
    {"turn", turn, METH_NOARGS, "The virtual time, and how many flows that were empty before are served next."},
    {"wake", wake, METH_NOARGS, "Wake idle workers, at most one for each waiting call."},
    {"get", get, METH_VARARGS,
     "get(worker, native_session): serve calls; returns a call that Python must serve, or None at the worker's end."},
    {"finish", finish, METH_O, "Pass a claimed call to the event loop; False if its result is no longer awaited."},
    {"withdraw", withdraw, METH_O, "Remove a call that no worker has claimed; False if one has."},
    {"abandon", abandon, METH_O,
     "Stop waiting for a claimed call; returns the number of its worker, or None if it is not claimed or is finished."},
    {"finished", finished, METH_NOARGS, "The calls that were finished since the last call of this method."},
    {"end", end, METH_O, "end(workers): let this number of workers end after the waiting calls are served."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Calls that wait for a session worker, and finished calls that wait for the event loop."},
    {Py_tp_new, call_queue_new},
    {Py_tp_dealloc, call_queue_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec CallQueue_Spec = {
    .name = "xksproxy.hsm._native.CallQueue",
    .basicsize = sizeof(CallQueue),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
