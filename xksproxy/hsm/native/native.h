/*
 * The native call path between the event loop and the threads that own HSM sessions.
 *
 * An AES-GCM call is two short C calls. From Python, each releases and takes the interpreter, which takes longer than
 * a fast module needs to encrypt. Here a call waits in a queue, the session's thread makes it without the
 * interpreter, and the event loop is woken through a file descriptor. Everything else (a key that was not checked
 * recently, a return value other than CKR_OK) is passed to the thread's Python code.
 *
 * Ownership: a NativeSession belongs to the thread of its session. The request of a Call does not change after the call
 * was queued. The queue's mutex guards the state of a Call. Until a Call is finished, its result belongs to the thread
 * that claimed it.
 */
#ifndef XKSPROXY_NATIVE_H
#define XKSPROXY_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define MAXIMUM_WEIGHT 1e6

enum { MAXIMUM_IV_BYTES = 16, IV_BYTES = 12, TAG_BYTES = 16, SHA256_BYTES = 32 };

/* PKCS#11 sections 3.4 and 5: the types of its C interface on Unix. */
typedef unsigned long CK_ULONG;

/* Counts the threads inside a module; closed while the module is initialised again. */
typedef struct {
    PyObject_HEAD
    pthread_mutex_t mutex; /* guards the fields below */
    pthread_cond_t emptied;
    unsigned long inside;
    bool closed;
    unsigned long generation; /* counts initialisations of the module: sessions of an earlier one are invalid */
} ModuleLock;

typedef enum { MADE, WAITING, CLAIMED, ABANDONED, FINISHED } CallState;

/* The function of a call that did not return CKR_OK. */
typedef enum { NO_FUNCTION, ENCRYPT_INIT, ENCRYPT, DECRYPT_INIT, DECRYPT } Function;

/* A request to an HSM session. If it has a key, it is an AES-GCM call that a NativeSession may make. */
typedef struct Call {
    PyObject_HEAD
    struct Call *next; /* in the queue or among the finished calls; the queue's mutex guards it, state and worker */
    void *queue;       /* the queue that it was put into; NULL before that */
    struct Flow *flow; /* the flow that it was put into, which it keeps alive; NULL before that */
    int calls;         /* the number of calls into the module, for the share of its flow */
    CallState state;
    long worker;       /* the worker that claimed it; -1 before that */
    double claimed_at;  /* CLOCK_MONOTONIC, in seconds; so is finished_at */
    double finished_at; /* 0 before */

    Py_ssize_t key; /* the number of a key; -1 if only Python can serve the call */
    bool encrypt;
    PyObject *fingerprint;            /* that the key must match; compared by identity */
    PyObject *aad_bytes, *data_bytes; /* own the memory that the pointers below point to */
    char *aad, *data;                 /* data: the plaintext, or the ciphertext followed by its tag */
    size_t aad_length, data_length;

    unsigned char iv[MAXIMUM_IV_BYTES];
    size_t iv_length;
    unsigned char *output; /* with an integrity value, the end of hashed */
    size_t output_capacity;
    CK_ULONG output_length; /* 0 unless the native session made the call successfully */

    /* For an encryption with an integrity value. The hash is over one buffer: prefix, IV, output. */
    unsigned char *hashed;
    size_t prefix_length;
    unsigned char *decrypted; /* the output of the trial decrypt, as large as the output */
    unsigned char integrity_value[SHA256_BYTES];
    bool differs; /* the trial decrypt succeeded, but did not give the plaintext */

    bool attempted;         /* the native session called the module for it, successfully or not */
    Function failed;
    CK_ULONG return_value;
} Call;

typedef struct {
    Call *first, *last;
} Chain;

void chain_append(Chain *chain, Call *call);
Call *chain_pop(Chain *chain);

/* Waiting calls that take turns with those of other flows; see flow.c. The queue's mutex guards all but the weight. */
typedef struct Flow {
    PyObject_HEAD
    struct Flow *next; /* among the flows with waiting calls */
    void *queue;       /* the queue that it belongs to; NULL before its first call */
    Chain waiting;
    double weight, start;
    bool returned; /* it starts at the virtual time, because it was empty before, and was not served since */
} Flow;

/* The flows with waiting calls, in the order in which they were added, and the virtual time. */
typedef struct {
    Flow *first, *last;
    long returned; /* the number of flows that are returned */
    double time;
} Flows;

Flow *flow_of_weight(double weight);

/* Let a flow belong to the queue, and return it; NULL with an exception if it belongs to another queue, or is no Flow. */
Flow *flow_for(void *queue, PyObject *object);

void flows_put(Flows *flows, Flow *flow, Call *call);
Call *flows_pop(Flows *flows);
bool flows_take_out(Flows *flows, Call *call);

/* Makes AES-GCM calls of one session, under keys that its thread has checked. */
typedef struct NativeSession NativeSession;

extern PyTypeObject *ModuleLock_Type, *Call_Type, *NativeSession_Type, *CallQueue_Type, *Flow_Type;
extern PyType_Spec ModuleLock_Spec, Call_Spec, NativeSession_Spec, CallQueue_Spec, Flow_Spec;

/* Enter; false if the lock is closed, or the module was initialised again after that generation. */
bool module_lock_enter(ModuleLock *module_lock, unsigned long generation);
void module_lock_leave(ModuleLock *module_lock);

/* Make a call without the interpreter. False: it was not made or it failed, and Python must serve it. */
bool native_session_run(NativeSession *native_session, Call *call);

/* Functions of the extension module; see function_list.c. */
PyObject *load_function_list(PyObject *module, PyObject *path);
PyObject *offer_function_list(PyObject *module, PyObject *address);

/* See token_buckets.c. */
PyObject *claim_bucket(PyObject *module, PyObject *arguments);
PyObject *take_token(PyObject *module, PyObject *arguments);

/* Free a buffer that may hold a plaintext. */
void clear_and_free(unsigned char *buffer, size_t length);

/* CLOCK_MONOTONIC in seconds, the same as Python's time.monotonic. */
double monotonic(void);

/* Free an instance of a heap type, and release its reference to the type. */
void free_instance(PyObject *self);

#endif
