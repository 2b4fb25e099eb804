/* Loads PKCS#11 modules without the interpreter, and gives python-pkcs11 the function list of a loaded module. */
#include "native.h"

#include <dlfcn.h>

enum { CKR_OK = 0, CKR_GENERAL_ERROR = 5 };

typedef CK_ULONG (*GetFunctionList)(void **list);

static __thread void *offered;

/*
 * Some modules, such as p11-kit's, return a new function list at each C_GetFunctionList, and each list must be initialised
 * separately. So python-pkcs11 loads this shared object instead of the module, and gets the list that Cryptoki initialises.
 */
__attribute__((visibility("default"))) CK_ULONG C_GetFunctionList(void **list) {
    *list = offered;
    return offered == NULL ? CKR_GENERAL_ERROR : CKR_OK;
}

PyObject *load_function_list(PyObject *Py_UNUSED(module), PyObject *argument) {
    PyObject *path = NULL;
    if (!PyUnicode_FSConverter(argument, &path)) return NULL;
    const char *name = PyBytes_AsString(path), *problem = NULL;
    void *list = NULL;
    GetFunctionList get = NULL;
    CK_ULONG return_value = CKR_OK;
    Py_BEGIN_ALLOW_THREADS
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    get = library == NULL ? NULL : (GetFunctionList)dlsym(library, "C_GetFunctionList");
    if (get == NULL) {
        problem = dlerror();
    } else {
        return_value = get(&list);
    }
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (get == NULL) {
        PyErr_SetString(PyExc_OSError, problem == NULL ? "C_GetFunctionList is NULL" : problem);
        return NULL;
    }
    return Py_BuildValue("(kK)", return_value, (unsigned long long)(uintptr_t)list);
}

PyObject *offer_function_list(PyObject *Py_UNUSED(module), PyObject *argument) {
    unsigned long long address = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred()) return NULL;
    offered = (void *)(uintptr_t)address;
    Py_RETURN_NONE;
}
