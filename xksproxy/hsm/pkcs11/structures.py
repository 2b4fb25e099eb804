"""The C structures of PKCS#11 v2.40 that the engine passes to a module, with the names of the specification."""

from collections.abc import Mapping
from ctypes import Array, Structure, addressof, c_char, c_ubyte, c_ulong, c_void_p, create_string_buffer, sizeof

_FUNCTIONS = (
    "C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo"
    " C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession"
    " C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject"
    " C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit"
    " C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt"
    " C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign"
    " C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal"
    " C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate"
    " C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom"
    " C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent"
).split()


class CK_VERSION(Structure):
    """Section 3.1."""

    _fields_ = [("major", c_ubyte), ("minor", c_ubyte)]


class CK_FUNCTION_LIST(Structure):
    """Section 3.6: the version, then every function in the order of the standard."""

    _fields_ = [("version", CK_VERSION), *((name, c_void_p) for name in _FUNCTIONS)]


class CK_C_INITIALIZE_ARGS(Structure):
    """Section 5.4, C_Initialize."""

    _fields_ = [
        ("CreateMutex", c_void_p),
        ("DestroyMutex", c_void_p),
        ("LockMutex", c_void_p),
        ("UnlockMutex", c_void_p),
        ("flags", c_ulong),
        ("pReserved", c_void_p),
    ]


class CK_TOKEN_INFO(Structure):
    """Section 3.2. Text is padded with spaces; some modules pad it with zeros."""

    _fields_ = [
        ("label", c_char * 32),
        ("manufacturerID", c_char * 32),
        ("model", c_char * 16),
        ("serialNumber", c_char * 16),
        ("flags", c_ulong),
        ("ulMaxSessionCount", c_ulong),
        ("ulSessionCount", c_ulong),
        ("ulMaxRwSessionCount", c_ulong),
        ("ulRwSessionCount", c_ulong),
        ("ulMaxPinLen", c_ulong),
        ("ulMinPinLen", c_ulong),
        ("ulTotalPublicMemory", c_ulong),
        ("ulFreePublicMemory", c_ulong),
        ("ulTotalPrivateMemory", c_ulong),
        ("ulFreePrivateMemory", c_ulong),
        ("hardwareVersion", CK_VERSION),
        ("firmwareVersion", CK_VERSION),
        ("utcTime", c_char * 16),
        ("beyond", c_char * 256),  # room for modules that write more
    ]


class CK_SESSION_INFO(Structure):
    """Section 3.3."""

    _fields_ = [("slotID", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("ulDeviceError", c_ulong)]


class CK_ATTRIBUTE(Structure):
    """Section 3.4."""

    _fields_ = [("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong)]


def attribute_array(template: Mapping[int, bytes]) -> tuple[Array[CK_ATTRIBUTE], list[Array[c_char]]]:
    """The attributes of a template, and the buffers that they point to, which must live as long."""
    values = [create_string_buffer(value, len(value)) for value in template.values()]
    attributes = (CK_ATTRIBUTE * len(template))(
        *(CK_ATTRIBUTE(kind, addressof(value), sizeof(value)) for kind, value in zip(template, values, strict=True))
    )
    return attributes, values


class CK_MECHANISM(Structure):
    """Section 3.5."""

    _fields_ = [("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong)]


class CK_GCM_PARAMS(Structure):
    """PKCS#11 mechanisms v2.40, section 2.12.2 (with ulIvBits, as in the header files that modules use)."""

    _fields_ = [
        ("pIv", c_void_p),
        ("ulIvLen", c_ulong),
        ("ulIvBits", c_ulong),
        ("pAAD", c_void_p),
        ("ulAADLen", c_ulong),
        ("ulTagBits", c_ulong),
    ]
