/*
 * Token buckets in memory that several processes map. No process waits for another one, even if that one was stopped.
 *
 * A bucket is two numbers of 64 bits: the key of its owner, 0 while it is free, and the time in nanoseconds at which it
 * is full again. A token moves that time by the interval between tokens; it is refused if the time would be further
 * away than the tokens of a full bucket take (the generic cell rate algorithm, ITU-T I.371).
 */
#include "native.h"

#include <stdint.h>

typedef struct {
    uint64_t owner, full_at;
} Bucket;

/* claim_bucket(buckets, key): the number of the bucket with a key, which is taken if there is none; -1 if all are taken. */
PyObject *claim_bucket(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer memory;
    unsigned long long key;
    if (!PyArg_ParseTuple(arguments, "w*K", &memory, &key)) return NULL;
    Bucket *buckets = memory.buf;
    size_t count = (size_t)memory.len / sizeof(Bucket);
    Py_ssize_t found = -1;
    for (size_t step = 0; key != 0 && step < count && found < 0; step++) {
        size_t number = (size_t)(key + step) % count;
        uint64_t owner = 0;
        if (__atomic_compare_exchange_n(&buckets[number].owner, &owner, (uint64_t)key, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST) ||
            owner == key) {
            found = (Py_ssize_t)number;
        }
    }
    PyBuffer_Release(&memory);
    return PyLong_FromSsize_t(found);
}

static bool take(Bucket *bucket, uint64_t interval, uint64_t capacity, uint64_t now) {
    uint64_t before = __atomic_load_n(&bucket->full_at, __ATOMIC_SEQ_CST), after;
    bool passes;
    do {
        uint64_t full_at = before < now ? now : before;
        if (full_at - now > capacity) full_at = now + capacity; /* it was used under a larger limit */
        passes = full_at - now + interval <= capacity;
        after = passes ? full_at + interval : full_at;
    } while (!__atomic_compare_exchange_n(&bucket->full_at, &before, after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return passes;
}

/* take_token(buckets, number, interval, capacity, now): times in nanoseconds; whether there was a token. */
PyObject *take_token(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer memory;
    Py_ssize_t number;
    unsigned long long interval, capacity, now;
    if (!PyArg_ParseTuple(arguments, "w*nKKK", &memory, &number, &interval, &capacity, &now)) return NULL;
    PyObject *result = NULL;
    if (number < 0 || (size_t)number >= (size_t)memory.len / sizeof(Bucket)) {
        PyErr_SetString(PyExc_IndexError, "there is no such bucket");
    } else {
        result = PyBool_FromLong(take((Bucket *)memory.buf + number, interval, capacity, now));
    }
    PyBuffer_Release(&memory);
    return result;
}
