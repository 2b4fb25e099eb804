/*
 * Waiting calls in lanes that are served in turn, by start-time fair queueing (Goyal, Vin, Cheng 1997).
 *
 * Each lane has a virtual time at which its next call starts: that of its last call, plus the work of that call divided
 * by the lane's weight. The lane that starts first is served. A lane that was empty starts at the virtual time of the
 * last call that was served, before all others that start then: it has had less than its share, but saves nothing up.
 */
#include "native.h"

void chain_append(Chain *chain, Call *call) {
    call->next = NULL;
    if (chain->last == NULL) {
        chain->first = call;
    } else {
        chain->last->next = call;
    }
    chain->last = call;
}

Call *chain_pop(Chain *chain) {
    Call *call = chain->first;
    if (call != NULL) {
        chain->first = call->next;
        if (chain->first == NULL) chain->last = NULL;
    }
    return call;
}

static bool chain_take_out(Chain *chain, Call *call) {
    Call **link = &chain->first, *before = NULL;
    while (*link != NULL && *link != call) {
        before = *link;
        link = &before->next;
    }
    if (*link == NULL) return false;
    *link = call->next;
    if (chain->last == call) chain->last = before;
    return true;
}

static void lanes_append(Lanes *lanes, Lane *lane) {
    lane->next = NULL;
    if (lanes->last == NULL) {
        lanes->first = lane;
    } else {
        lanes->last->next = lane;
    }
    lanes->last = lane;
}

static void lanes_remove(Lanes *lanes, Lane *lane) {
    Lane **link = &lanes->first, *before = NULL;
    while (*link != lane) {
        before = *link;
        link = &before->next;
    }
    *link = lane->next;
    if (lanes->last == lane) lanes->last = before;
}

void lanes_put(Lanes *lanes, Lane *lane, Call *call) {
    if (lane->waiting.first == NULL) {
        lane->returned = lane->start <= lanes->time;
        if (lane->returned) {
            lane->start = lanes->time;
            lanes->returned++;
        }
        lanes_append(lanes, lane);
    }
    chain_append(&lane->waiting, call);
}

static void end_return(Lanes *lanes, Lane *lane) {
    if (lane->returned) lanes->returned--;
    lane->returned = false;
}

static bool is_before(const Lane *one, const Lane *other) {
    return one->start < other->start || (one->start == other->start && one->returned && !other->returned);
}

Call *lanes_pop(Lanes *lanes) {
    Lane *first = lanes->first;
    if (first == NULL) return NULL;
    for (Lane *lane = first->next; lane != NULL; lane = lane->next) {
        if (is_before(lane, first)) first = lane;
    }
    Call *call = chain_pop(&first->waiting);
    lanes->time = first->start;
    first->start += call->calls / first->weight;
    end_return(lanes, first);
    lanes_remove(lanes, first);
    if (first->waiting.first != NULL) lanes_append(lanes, first); /* behind those that start at the same time */
    return call;
}

bool lanes_take_out(Lanes *lanes, Call *call) {
    if (!chain_take_out(&call->lane->waiting, call)) return false;
    if (call->lane->waiting.first == NULL) {
        end_return(lanes, call->lane);
        lanes_remove(lanes, call->lane);
    }
    return true;
}

Lane *lane_of_weight(double weight) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(Lane_Type, Py_tp_alloc);
    Lane *lane = (Lane *)allocate(Lane_Type, 0);
    if (lane != NULL) lane->weight = weight;
    return lane;
}

static PyObject *lane_new(PyTypeObject *Py_UNUSED(type), PyObject *arguments, PyObject *Py_UNUSED(keywords)) {
    double weight;
    if (!PyArg_ParseTuple(arguments, "d", &weight)) return NULL;
    if (!(weight > 0 && weight <= MAXIMUM_WEIGHT)) {
        PyErr_SetString(PyExc_ValueError, "expected a weight above 0, and at most a million");
        return NULL;
    }
    return (PyObject *)lane_of_weight(weight);
}

Lane *lane_for(void *queue, PyObject *object) {
    if (!PyObject_TypeCheck(object, Lane_Type)) {
        PyErr_SetString(PyExc_TypeError, "expected a Lane");
        return NULL;
    }
    Lane *lane = (Lane *)object;
    if (lane->queue == NULL) lane->queue = queue;
    if (lane->queue == queue) return lane;
    PyErr_SetString(PyExc_ValueError, "the lane belongs to another queue");
    return NULL;
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "Calls that wait in turn with those of other lanes: Lane(weight). It belongs to one queue."},
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, free_instance},
    {0, NULL},
};

PyType_Spec Lane_Spec = {
    .name = "xksproxy.hsm._native.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
