/*
 * The crossing between the event loop and the threads that own HSM sessions.
 *
 * An AES-GCM call is two short C calls. Made from Python, each gives the interpreter up and takes it back, and the threads
 * spend more time handing it over than the module takes to encrypt. Here a call waits in a queue, is made by the session's
 * own thread without the interpreter, and wakes the event loop through a file descriptor. What is out of the ordinary (a
 * key that was not looked at lately, a return value other than CKR_OK) goes to the thread's Python code, which judges it.
 *
 * Who may touch what: a NativeSession belongs to the one thread of its session. A Call's request is never changed once it is queued;
 * its state is guarded by the queue's mutex, and its result belongs to the thread that claimed it until it is finished.
 */
#ifndef XKSPROXY_NATIVE_H
#define XKSPROXY_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdbool.h>

enum { MAXIMUM_IV_BYTES = 16, IV_BYTES = 12, TAG_BYTES = 16, SHA256_BYTES = 32 };

/* PKCS#11 sections 3.4 and 5: the types of its C interface, as they are on Unix. */
typedef unsigned long CK_ULONG;

/* What a thread passes to be inside the module; closed while the module is initialised again. */
typedef struct {
    PyObject_HEAD
    pthread_mutex_t mutex; /* guards all that follows */
    pthread_cond_t emptied;
    unsigned long inside;
    bool closed;
    unsigned long generation; /* of the module's initialisation: sessions of an earlier one are gone */
} ModuleLock;

typedef enum { MADE, WAITING, CLAIMED, ABANDONED, FINISHED } CallState;

/* What went wrong in a call: its first function that did not return CKR_OK. */
typedef enum { NO_FUNCTION, ENCRYPT_INIT, ENCRYPT, DECRYPT_INIT, DECRYPT } Function;

/* One piece of work for an HSM session. With a key, it is an AES-GCM call that a NativeSession may make. */
typedef struct Call {
    PyObject_HEAD
    struct Call *next; /* in the queue or among the finished; guarded by the queue's mutex, as are state and worker */
    void *queue;       /* that it was put into, to tell it from others; NULL before */
    CallState state;
    long worker;         /* who claimed it; -1 while nobody has */
    double claimed_at; /* CLOCK_MONOTONIC, in seconds */

    Py_ssize_t key; /* the number of a key; -1 if it is not for a NativeSession */
    bool encrypt;
    PyObject *fingerprint;            /* what the key must have been held against; compared by identity alone */
    PyObject *aad_bytes, *data_bytes; /* hold what the pointers below point into */
    char *aad, *data;           /* data: the plaintext, or the ciphertext followed by its tag */
    size_t aad_length, data_length;

    unsigned char iv[MAXIMUM_IV_BYTES];
    size_t iv_length;
    unsigned char *output; /* with an integrity value, the end of hashed */
    size_t output_capacity;
    CK_ULONG output_length; /* 0 until the native_session has made it; never what a module said of a failure */

    /* For an encryption whose integrity value is wanted: what is hashed is one buffer of prefix, IV and output. */
    unsigned char *hashed;
    size_t prefix_length;
    unsigned char *decrypted; /* the output of the trial decrypt, as large as the output */
    unsigned char integrity_value[SHA256_BYTES];
    bool differs; /* the trial decrypt succeeded, and gave something else than the plaintext */

    bool attempted;         /* the native_session has called the module for it, with whatever outcome */
    Function failed;
    CK_ULONG return_value;
} Call;

/* What the calls of one session need, and the keys that its thread has found and looked at. */
typedef struct NativeSession NativeSession;

extern PyTypeObject *ModuleLock_Type, *Call_Type, *NativeSession_Type, *CallQueue_Type;
extern PyType_Spec ModuleLock_Spec, Call_Spec, NativeSession_Spec, CallQueue_Spec;

/* False if the module_lock is closed, or the module was initialised again since that generation. */
bool module_lock_enter(ModuleLock *module_lock, unsigned long generation);
void module_lock_leave(ModuleLock *module_lock);

/* Make a call, if the native_session can; without the interpreter. False: it was not made, or failed, and is left to Python. */
bool native_session_run(NativeSession *native_session, Call *call);

/* CLOCK_MONOTONIC in seconds, as Python's time.monotonic. */
double monotonic(void);

/* Give back an instance of a heap type, and its hold on the type. */
void free_instance(PyObject *self);

#endif
