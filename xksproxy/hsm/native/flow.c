/*
 * Waiting calls in flows that are served in turn, by start-time fair queueing (Goyal, Vin, Cheng 1997).
 *
 * Each flow has a virtual time at which its next call starts: that of its last call, plus the work of that call divided
 * by the flow's weight. The flow that starts first is served. A flow that was empty starts at the virtual time of the
 * last call that was served, before all others that start at the same time: it has had less than its share. It cannot
 * save up the share that it did not use.
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

static void flows_append(Flows *flows, Flow *flow) {
    flow->next = NULL;
    if (flows->last == NULL) {
        flows->first = flow;
    } else {
        flows->last->next = flow;
    }
    flows->last = flow;
}

static void flows_remove(Flows *flows, Flow *flow) {
    Flow **link = &flows->first, *before = NULL;
    while (*link != flow) {
        before = *link;
        link = &before->next;
    }
    *link = flow->next;
    if (flows->last == flow) flows->last = before;
}

void flows_put(Flows *flows, Flow *flow, Call *call) {
    if (flow->waiting.first == NULL) {
        flow->returned = flow->start <= flows->time;
        if (flow->returned) {
            flow->start = flows->time;
            flows->returned++;
        }
        flows_append(flows, flow);
    }
    chain_append(&flow->waiting, call);
}

static void end_return(Flows *flows, Flow *flow) {
    if (flow->returned) flows->returned--;
    flow->returned = false;
}

static bool is_before(const Flow *one, const Flow *other) {
    return one->start < other->start || (one->start == other->start && one->returned && !other->returned);
}

Call *flows_pop(Flows *flows) {
    Flow *first = flows->first;
    if (first == NULL) return NULL;
    for (Flow *flow = first->next; flow != NULL; flow = flow->next) {
        if (is_before(flow, first)) first = flow;
    }
    Call *call = chain_pop(&first->waiting);
    flows->time = first->start;
    first->start += call->calls / first->weight;
    end_return(flows, first);
    flows_remove(flows, first);
    if (first->waiting.first != NULL) flows_append(flows, first); /* behind those that start at the same time */
    return call;
}

bool flows_take_out(Flows *flows, Call *call) {
    if (!chain_take_out(&call->flow->waiting, call)) return false;
    if (call->flow->waiting.first == NULL) {
        end_return(flows, call->flow);
        flows_remove(flows, call->flow);
    }
    return true;
}

Flow *flow_of_weight(double weight) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(Flow_Type, Py_tp_alloc);
    Flow *flow = (Flow *)allocate(Flow_Type, 0);
    if (flow != NULL) flow->weight = weight;
    return flow;
}

static PyObject *flow_new(PyTypeObject *Py_UNUSED(type), PyObject *arguments, PyObject *Py_UNUSED(keywords)) {
    double weight;
    if (!PyArg_ParseTuple(arguments, "d", &weight)) return NULL;
    if (!(weight > 0 && weight <= MAXIMUM_WEIGHT)) {
        PyErr_SetString(PyExc_ValueError, "expected a weight above 0, and at most a million");
        return NULL;
    }
    return (PyObject *)flow_of_weight(weight);
}

Flow *flow_for(void *queue, PyObject *object) {
    if (!PyObject_TypeCheck(object, Flow_Type)) {
        PyErr_SetString(PyExc_TypeError, "expected a Flow");
        return NULL;
    }
    Flow *flow = (Flow *)object;
    if (flow->queue == NULL) flow->queue = queue;
    if (flow->queue == queue) return flow;
    PyErr_SetString(PyExc_ValueError, "the flow belongs to another queue");
    return NULL;
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "Calls that wait in turn with those of other flows: Flow(weight). It belongs to one queue."},
    {Py_tp_new, flow_new},
    {Py_tp_dealloc, free_instance},
    {0, NULL},
};

PyType_Spec Flow_Spec = {
    .name = "xksproxy.hsm._native.Flow",
    .basicsize = sizeof(Flow),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
