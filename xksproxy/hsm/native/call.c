/* A request to an HSM session: it goes from the event loop to the session's thread and back. */
#include "native.h"

#include <stdlib.h>
#include <string.h>

enum { SLACK_BYTES = 64 };

static const char *const FUNCTION_NAMES[] = {
    [NO_FUNCTION] = NULL,           [ENCRYPT_INIT] = "C_EncryptInit", [ENCRYPT] = "C_Encrypt",
    [DECRYPT_INIT] = "C_DecryptInit", [DECRYPT] = "C_Decrypt",
};

static PyObject *call_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(keywords)) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Call *call = (Call *)allocate(type, 0);
    if (call == NULL) return NULL;
    call->worker = -1;
    call->key = -1;
    return (PyObject *)call;
}

/* set_gcm(key, fingerprint, encrypt, iv, aad, data): the AES-GCM call, in a form that a NativeSession can make. */
static PyObject *set_gcm(PyObject *self, PyObject *arguments) {
    Call *call = (Call *)self;
    Py_ssize_t key, iv_length, aad_length, data_length;
    int encrypt;
    const char *iv;
    char *aad, *data;
    PyObject *fingerprint, *aad_bytes, *data_bytes;
    if (!PyArg_ParseTuple(arguments, "nOpy#SS", &key, &fingerprint, &encrypt, &iv, &iv_length, &aad_bytes,
                          &data_bytes) ||
        PyBytes_AsStringAndSize(aad_bytes, &aad, &aad_length) < 0 ||
        PyBytes_AsStringAndSize(data_bytes, &data, &data_length) < 0) {
        return NULL;
    }
    if (call->output != NULL || call->state != MADE) {
        PyErr_SetString(PyExc_RuntimeError, "a call has one request, from before it is put into a queue");
        return NULL;
    }
    if (key < 0 || iv_length > MAXIMUM_IV_BYTES || (!encrypt && data_length < TAG_BYTES)) {
        PyErr_SetString(PyExc_ValueError,
                        "expected a key number of 0 or more, an IV of at most 16 bytes, and a ciphertext with its tag");
        return NULL;
    }
    call->output_capacity = (size_t)data_length + TAG_BYTES + SLACK_BYTES;
    call->output = calloc(1, call->output_capacity);
    if (call->output == NULL) return PyErr_NoMemory();
    call->key = key;
    call->encrypt = encrypt != 0;
    call->iv_length = (size_t)iv_length;
    memcpy(call->iv, iv, call->iv_length);
    Py_INCREF(fingerprint);
    Py_INCREF(aad_bytes);
    Py_INCREF(data_bytes);
    call->fingerprint = fingerprint;
    call->aad_bytes = aad_bytes;
    call->data_bytes = data_bytes;
    call->aad = aad;
    call->data = data;
    call->aad_length = (size_t)aad_length;
    call->data_length = (size_t)data_length;
    Py_RETURN_NONE;
}

/* set_integrity_prefix(prefix): hash prefix, IV and output of the encryption, and then decrypt the output (R-CDIV-5, R-CDIV-6). */
static PyObject *set_integrity_prefix(PyObject *self, PyObject *argument) {
    Call *call = (Call *)self;
    char *prefix;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(argument, &prefix, &length) < 0) return NULL;
    if (call->output == NULL || !call->encrypt || call->hashed != NULL || call->state != MADE) {
        PyErr_SetString(PyExc_RuntimeError, "an integrity value belongs to one encryption, from before it is put into a queue");
        return NULL;
    }
    size_t before_output = (size_t)length + IV_BYTES;
    unsigned char *hashed = calloc(1, before_output + call->output_capacity);
    unsigned char *decrypted = calloc(1, call->output_capacity);
    if (hashed == NULL || decrypted == NULL) {
        free(hashed);
        free(decrypted);
        return PyErr_NoMemory();
    }
    memcpy(hashed, prefix, (size_t)length);
    free(call->output);
    call->hashed = hashed;
    call->prefix_length = (size_t)length;
    call->output = hashed + before_output;
    call->decrypted = decrypted;
    Py_RETURN_NONE;
}

void clear_and_free(unsigned char *buffer, size_t length) {
    if (buffer == NULL) return;
    explicit_bzero(buffer, length);
    free(buffer);
}

static void call_dealloc(PyObject *self) {
    Call *call = (Call *)self;
    if (call->hashed == NULL) {
        clear_and_free(call->output, call->output_capacity);
    } else {
        free(call->hashed); /* AAD, IV and ciphertext */
    }
    clear_and_free(call->decrypted, call->output_capacity);
    Py_XDECREF(call->fingerprint);
    Py_XDECREF(call->aad_bytes);
    Py_XDECREF(call->data_bytes);
    Py_XDECREF((PyObject *)call->flow);
    free_instance(self);
}

static PyObject *get_iv(PyObject *self, void *Py_UNUSED(closure)) {
    Call *call = (Call *)self;
    return PyBytes_FromStringAndSize((const char *)call->iv, (Py_ssize_t)call->iv_length);
}

static PyObject *get_output(PyObject *self, void *Py_UNUSED(closure)) {
    Call *call = (Call *)self;
    return PyBytes_FromStringAndSize((const char *)call->output, (Py_ssize_t)call->output_length);
}

static PyObject *get_integrity_value(PyObject *self, void *Py_UNUSED(closure)) {
    Call *call = (Call *)self;
    if (call->hashed == NULL || call->output_length == 0) {
        PyErr_SetString(PyExc_RuntimeError, "the call has no verified output");
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)call->integrity_value, SHA256_BYTES);
}

static PyObject *get_differs(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((Call *)self)->differs);
}

static PyObject *get_claimed_at(PyObject *self, void *Py_UNUSED(closure)) {
    Call *call = (Call *)self;
    if (call->worker < 0) Py_RETURN_NONE;
    return PyFloat_FromDouble(call->claimed_at);
}

static PyObject *get_finished_at(PyObject *self, void *Py_UNUSED(closure)) {
    Call *call = (Call *)self;
    if (call->finished_at == 0) Py_RETURN_NONE;
    return PyFloat_FromDouble(call->finished_at);
}

static PyObject *get_abandoned(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((Call *)self)->state == ABANDONED);
}

static PyObject *take_failure(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Call *call = (Call *)self;
    Function failed = call->failed;
    if (failed == NO_FUNCTION) Py_RETURN_NONE;
    call->failed = NO_FUNCTION;
    return Py_BuildValue("(sk)", FUNCTION_NAMES[failed], call->return_value);
}

static PyObject *get_attempted(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((Call *)self)->attempted);
}

static PyMethodDef methods[] = {
    {"set_gcm", set_gcm, METH_VARARGS,
     "Allow a NativeSession to make the call: set_gcm(key, fingerprint, encrypt, iv, aad, data)."},
    {"set_integrity_prefix", set_integrity_prefix, METH_O,
     "Verify the encryption: compute the integrity value over prefix, IV and output, then decrypt the output."},
    {"take_failure", take_failure, METH_NOARGS,
     "The function that failed and its return value; None if none failed or it was taken before."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"iv", get_iv, NULL, "The IV that was used.", NULL},
    {"output", get_output, NULL, "The output of a NativeSession's call.", NULL},
    {"integrity_value", get_integrity_value, NULL, "SHA-256 over prefix, IV and output of a verified encryption.", NULL},
    {"differs", get_differs, NULL, "Whether the output decrypted to other data than the plaintext.", NULL},
    {"claimed_at", get_claimed_at, NULL, "When a worker claimed it, on the monotonic clock; None before that.", NULL},
    {"finished_at", get_finished_at, NULL, "When it was finished, on the monotonic clock; None before that.", NULL},
    {"attempted", get_attempted, NULL, "Whether a NativeSession called the module for it, successfully or not.", NULL},
    {"abandoned", get_abandoned, NULL, "Whether its result is no longer awaited.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A request to an HSM session; after set_gcm a NativeSession can make it."},
    {Py_tp_new, call_new},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

PyType_Spec Call_Spec = {
    .name = "xksproxy.hsm._native.Call",
    .basicsize = sizeof(Call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
