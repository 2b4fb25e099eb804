/* AES-GCM calls of one session, under keys that its thread has checked (PKCS#11 mechanisms, section 2.12). */
#include "native.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CKR_OK = 0, CKM_AES_GCM = 0x1087, TAG_BITS = 128 };

typedef struct {
    void *iv;
    CK_ULONG iv_length, iv_bits;
    void *aad;
    CK_ULONG aad_length, tag_bits;
} GcmParameters;

typedef struct {
    CK_ULONG mechanism;
    void *parameter;
    CK_ULONG parameter_length;
} Mechanism;

typedef CK_ULONG (*InitFunction)(CK_ULONG session, Mechanism *mechanism, CK_ULONG key);
typedef CK_ULONG (*RunFunction)(CK_ULONG session, void *data, CK_ULONG length, void *output, CK_ULONG *output_length);

/* OpenSSL's one-shot SHA256(3). */
typedef unsigned char *(*Sha256Function)(const unsigned char *data, size_t length, unsigned char *digest);

typedef struct {
    CK_ULONG handle;
    double until; /* CLOCK_MONOTONIC; 0: not allowed */
    bool encrypt, decrypt;
    PyObject *fingerprint;
} Key;

struct NativeSession {
    PyObject_HEAD
    ModuleLock *module_lock;
    unsigned long generation;
    CK_ULONG session;
    InitFunction encrypt_init, decrypt_init;
    RunFunction encrypt, decrypt;
    Sha256Function sha256; /* NULL: only Python can verify an encryption */
    size_t maximum_data_bytes;
    bool hsm_writes_iv; /* into a zeroed buffer */
    Key *keys;
    Py_ssize_t key_count;
    unsigned char *ivs; /* drawn in advance; each is used for one attempt */
    size_t iv_count, iv_next;
};

static Key *allowed_key(NativeSession *native, const Call *call) {
    if (call->key < 0 || call->key >= native->key_count) return NULL;
    Key *key = &native->keys[call->key];
    bool decrypts = !call->encrypt || call->hashed != NULL;
    bool permitted = (!call->encrypt || key->encrypt) && (!decrypts || key->decrypt);
    return permitted && key->fingerprint == call->fingerprint && key->until > monotonic() ? key : NULL;
}

/* The IV that was taken last. */
static const unsigned char *last_iv(const NativeSession *native) {
    return native->ivs + IV_BYTES * (native->iv_next - 1);
}

/* Set the IV of an encryption: the next IV that was drawn in advance, or zeros that the HSM replaces. False if none is left. */
static bool draw_iv(NativeSession *native, Call *call) {
    if (native->hsm_writes_iv) {
        memset(call->iv, 0, IV_BYTES);
    } else {
        if (native->iv_next == native->iv_count) return false;
        native->iv_next++;
        memcpy(call->iv, last_iv(native), IV_BYTES);
    }
    call->iv_length = IV_BYTES;
    return true;
}

/* Whether length and IV are correct; if not, Python makes the call again and reports what is wrong. */
static bool plausible(const NativeSession *native, const Call *call, CK_ULONG output_length) {
    static const unsigned char zeros[IV_BYTES];
    if (!call->encrypt) return output_length == call->data_length - TAG_BYTES;
    if (output_length != call->data_length + TAG_BYTES || memcmp(call->iv, zeros, IV_BYTES) == 0) return false;
    return native->hsm_writes_iv || memcmp(call->iv, last_iv(native), IV_BYTES) == 0;
}

/* Copy AAD and data for the module, which may write to what it gets; the caller's are needed for another attempt. */
static unsigned char *copied(unsigned char *copy, const Call *call, const void *data, size_t length) {
    memcpy(copy, call->aad, call->aad_length);
    memcpy(copy + call->aad_length, data, length);
    return copy + call->aad_length;
}

static bool run(NativeSession *native, Call *call, const Key *key, unsigned char *copy) {
    unsigned char *data = copied(copy, call, call->data, call->data_length);
    GcmParameters parameters = {
        call->iv, call->iv_length, 8 * call->iv_length,
        copy, call->aad_length, TAG_BITS,
    };
    Mechanism mechanism = {CKM_AES_GCM, &parameters, sizeof parameters};
    call->attempted = true;
    InitFunction init = call->encrypt ? native->encrypt_init : native->decrypt_init;
    call->return_value = init(native->session, &mechanism, key->handle);
    if (call->return_value != CKR_OK) {
        call->failed = call->encrypt ? ENCRYPT_INIT : DECRYPT_INIT;
        return false;
    }
    CK_ULONG length = call->output_capacity;
    RunFunction crypt = call->encrypt ? native->encrypt : native->decrypt;
    call->return_value = crypt(native->session, data, call->data_length, call->output, &length);
    if (call->return_value != CKR_OK) {
        call->failed = call->encrypt ? ENCRYPT : DECRYPT;
        return false;
    }
    if (!plausible(native, call, length)) return false;
    call->output_length = length;
    return true;
}

static bool equal(const unsigned char *one, const unsigned char *other, size_t length) {
    unsigned char difference = 0;
    for (size_t at = 0; at < length; at++) difference |= one[at] ^ other[at];
    return difference == 0;
}

/*
 * Compute the integrity value of an output, and then decrypt the same output (R-CDIV-6): an output that is corrupted after it
 * was hashed does not decrypt. The module gets copies.
 */
static bool verify(NativeSession *native, Call *call, const Key *key, unsigned char *copy) {
    memcpy(call->hashed + call->prefix_length, call->iv, IV_BYTES);
    size_t hashed_length = call->prefix_length + IV_BYTES + call->output_length;
    if (native->sha256(call->hashed, hashed_length, call->integrity_value) == NULL) return false;
    unsigned char iv[IV_BYTES];
    memcpy(iv, call->iv, IV_BYTES);
    unsigned char *output = copied(copy, call, call->output, call->output_length);
    GcmParameters parameters = {iv, IV_BYTES, 8 * IV_BYTES, copy, call->aad_length, TAG_BITS};
    Mechanism mechanism = {CKM_AES_GCM, &parameters, sizeof parameters};
    call->return_value = native->decrypt_init(native->session, &mechanism, key->handle);
    if (call->return_value != CKR_OK) {
        call->failed = DECRYPT_INIT;
        return false;
    }
    CK_ULONG length = call->output_capacity;
    call->return_value = native->decrypt(
        native->session, output, call->output_length, call->decrypted, &length);
    if (call->return_value != CKR_OK) {
        call->failed = DECRYPT;
        return false;
    }
    call->differs = length != call->data_length || !equal(call->decrypted, (unsigned char *)call->data, call->data_length);
    return !call->differs;
}

bool native_session_run(NativeSession *native, Call *call) {
    Key *key = allowed_key(native, call);
    if (key == NULL) return false;
    size_t text = call->data_length - (call->encrypt ? 0 : TAG_BYTES);
    if (native->maximum_data_bytes > 0 && text > native->maximum_data_bytes) return false;
    if (call->hashed != NULL && native->sha256 == NULL) return false;
    size_t copy_length = call->aad_length + call->output_capacity;
    unsigned char *copy = malloc(copy_length);
    if (copy == NULL) return false;
    bool made = false;
    if (module_lock_enter(native->module_lock, native->generation)) {
        made = (!call->encrypt || draw_iv(native, call)) && run(native, call, key, copy) &&
               (call->hashed == NULL || verify(native, call, key, copy));
        if (!made) call->output_length = 0;
        module_lock_leave(native->module_lock);
    }
    clear_and_free(copy, copy_length);
    return made;
}

static PyObject *native_session_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"module_lock", "session", "functions", "maximum_data_bytes", "hsm_writes_iv", "sha256", NULL};
    PyObject *lock_object;
    CK_ULONG session;
    unsigned long long functions[4], sha256 = 0;
    Py_ssize_t maximum;
    int hsm_writes_iv;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!k(KKKK)np|K", names, ModuleLock_Type, &lock_object, &session,
                                     &functions[0], &functions[1], &functions[2], &functions[3], &maximum,
                                     &hsm_writes_iv, &sha256)) {
        return NULL;
    }
    if (maximum < 0 || !functions[0] || !functions[1] || !functions[2] || !functions[3]) {
        PyErr_SetString(PyExc_ValueError, "expected the addresses of four functions, and a maximum of 0 or more");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    NativeSession *native = (NativeSession *)allocate(type, 0);
    if (native == NULL) return NULL;
    native->module_lock = (ModuleLock *)lock_object;
    Py_INCREF(lock_object);
    native->generation = native->module_lock->generation; /* it cannot change: the thread is inside the lock */
    native->session = session;
    native->encrypt_init = (InitFunction)(uintptr_t)functions[0];
    native->encrypt = (RunFunction)(uintptr_t)functions[1];
    native->decrypt_init = (InitFunction)(uintptr_t)functions[2];
    native->decrypt = (RunFunction)(uintptr_t)functions[3];
    native->sha256 = (Sha256Function)(uintptr_t)sha256;
    native->maximum_data_bytes = (size_t)maximum;
    native->hsm_writes_iv = hsm_writes_iv != 0;
    return (PyObject *)native;
}

static void native_session_dealloc(PyObject *self) {
    NativeSession *native = (NativeSession *)self;
    for (Py_ssize_t number = 0; number < native->key_count; number++) Py_XDECREF(native->keys[number].fingerprint);
    free(native->keys);
    free(native->ivs);
    Py_XDECREF((PyObject *)native->module_lock);
    free_instance(self);
}

static bool make_room(NativeSession *native, Py_ssize_t number) {
    if (number < native->key_count) return true;
    Py_ssize_t count = number < 8 ? 16 : 2 * number;
    Key *keys = realloc(native->keys, (size_t)count * sizeof *keys);
    if (keys == NULL) return false;
    memset(keys + native->key_count, 0, (size_t)(count - native->key_count) * sizeof *keys);
    native->keys = keys;
    native->key_count = count;
    return true;
}

static PyObject *allow_key(PyObject *self, PyObject *arguments) {
    NativeSession *native = (NativeSession *)self;
    Py_ssize_t number;
    CK_ULONG handle;
    double until;
    int encrypt, decrypt;
    PyObject *fingerprint;
    if (!PyArg_ParseTuple(arguments, "nkdppO", &number, &handle, &until, &encrypt, &decrypt, &fingerprint)) return NULL;
    if (number < 0 || number > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "expected a key number of 0 or more");
        return NULL;
    }
    if (!make_room(native, number)) return PyErr_NoMemory();
    PyObject *former = native->keys[number].fingerprint;
    Py_INCREF(fingerprint);
    native->keys[number] = (Key){handle, until, encrypt != 0, decrypt != 0, fingerprint};
    Py_XDECREF(former); /* last, because it may run other code */
    Py_RETURN_NONE;
}

static PyObject *revoke_key(PyObject *self, PyObject *argument) {
    NativeSession *native = (NativeSession *)self;
    Py_ssize_t number = PyLong_AsSsize_t(argument);
    if (PyErr_Occurred()) return NULL;
    if (number >= 0 && number < native->key_count) native->keys[number].until = 0;
    Py_RETURN_NONE;
}

static PyObject *replace_ivs(PyObject *self, PyObject *argument) {
    NativeSession *native = (NativeSession *)self;
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(argument, &bytes, &length) < 0) return NULL;
    if (length % IV_BYTES != 0) {
        PyErr_SetString(PyExc_ValueError, "expected IVs of 12 bytes");
        return NULL;
    }
    unsigned char *ivs = malloc((size_t)length + 1);
    if (ivs == NULL) return PyErr_NoMemory();
    memcpy(ivs, bytes, (size_t)length);
    free(native->ivs);
    native->ivs = ivs;
    native->iv_count = (size_t)length / IV_BYTES;
    native->iv_next = 0;
    Py_RETURN_NONE;
}

static PyObject *take_iv(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    NativeSession *native = (NativeSession *)self;
    if (native->iv_next == native->iv_count) Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((const char *)native->ivs + IV_BYTES * native->iv_next++, IV_BYTES);
}

static PyMethodDef methods[] = {
    {"allow_key", allow_key, METH_VARARGS,
     "Allow calls under a key: allow_key(key, handle, until, encrypt, decrypt, fingerprint)."},
    {"revoke_key", revoke_key, METH_O, "Forbid calls under a key until it is allowed again."},
    {"replace_ivs", replace_ivs, METH_O, "Replace the remaining IVs."},
    {"take_iv", take_iv, METH_NOARGS, "Remove and return the next IV; None if none is left."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Makes AES-GCM calls of one session, under keys that its thread has checked."},
    {Py_tp_new, native_session_new},
    {Py_tp_dealloc, native_session_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec NativeSession_Spec = {
    .name = "xksproxy.hsm._native.NativeSession",
    .basicsize = sizeof(NativeSession),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
