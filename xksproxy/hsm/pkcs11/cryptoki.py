"""The functions of one PKCS#11 module, called directly, so that the exact return value is known.

Sessions, tokens and log-in come from python-pkcs11 (see :mod:`xksproxy.hsm.pkcs11.connection`). The calls of the
request path are here. Every call releases the interpreter lock. No call is safe on a session that another thread uses.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import (
    CFUNCTYPE,
    Array,
    addressof,
    byref,
    c_char,
    c_ulong,
    c_void_p,
    create_string_buffer,
    sizeof,
)
from typing import Any, Final

from xksproxy.hsm import _native
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.calls_inside import CallsInside
from xksproxy.hsm.pkcs11.structures import (
    CK_ATTRIBUTE,
    CK_C_INITIALIZE_ARGS,
    CK_FUNCTION_LIST,
    CK_GCM_PARAMS,
    CK_MECHANISM,
    CK_SESSION_INFO,
    CK_TOKEN_INFO,
    attribute_array,
)

_CKF_OS_LOCKING_OK: Final = 2
_CKM_AES_GCM: Final = 0x1087
_TAG_BITS: Final = 128
_TAG_BYTES: Final = 16
_SLACK_BYTES: Final = 64
_UNAVAILABLE: Final = c_ulong(-1).value
_UNTOUCHED: Final = 0x7A5A5A5A
"""A length that stays in place only if the module has not answered for the attribute."""

_FIND_BATCH: Final = 64
_CKU_USER: Final = 1

_CALLED_BY_THE_BINDING: Final = (
    "C_GetInfo",
    "C_GetSlotList",
    "C_GetSlotInfo",
    "C_OpenSession",
    "C_CloseSession",
    "C_GenerateKey",
)


class CryptokiError(Exception):
    """A PKCS#11 function returned something other than CKR_OK."""

    def __init__(self, function: str, return_value: int) -> None:
        self.function = function
        self.return_value = return_value
        super().__init__(f"{function}: {return_values.name(return_value)}")


class Cryptoki:
    """The C functions of one shared object.

    A shared object has one state per process however often it is loaded, so there is one Cryptoki per path.
    """

    def __init__(self, path: str) -> None:
        """Load the shared object; it is not initialised yet.

        Raises:
            OSError: it cannot be loaded, or is no PKCS#11 module.
            CryptokiError: C_GetFunctionList fails.
        """
        return_value, address = _native.load_function_list(path)
        _check("C_GetFunctionList", return_value)
        if not address:
            raise OSError("C_GetFunctionList gave no function list, although it returned CKR_OK")
        self.function_list_address = address
        self.calls_inside = CallsInside()
        self._table = CK_FUNCTION_LIST.from_address(address)
        self._initialize = self._bind("C_Initialize", c_void_p)
        self._finalize = self._bind("C_Finalize", c_void_p)
        self._get_token_info = self._bind("C_GetTokenInfo", c_ulong, c_void_p)
        self._get_session_info = self._bind("C_GetSessionInfo", c_ulong, c_void_p)
        self._login = self._bind("C_Login", c_ulong, c_ulong, c_void_p, c_ulong)
        self._logout = self._bind("C_Logout", c_ulong)
        self._get_attribute_value = self._bind("C_GetAttributeValue", c_ulong, c_ulong, c_void_p, c_ulong)
        self._find_init = self._bind("C_FindObjectsInit", c_ulong, c_void_p, c_ulong)
        self._find = self._bind("C_FindObjects", c_ulong, c_void_p, c_ulong, c_void_p)
        self._find_final = self._bind("C_FindObjectsFinal", c_ulong)
        self._create_object = self._bind("C_CreateObject", c_ulong, c_void_p, c_ulong, c_void_p, optional=True)
        self._destroy_object = self._bind("C_DestroyObject", c_ulong, c_ulong, optional=True)
        self._encrypt_init = self._bind("C_EncryptInit", c_ulong, c_void_p, c_ulong)
        self._encrypt = self._bind("C_Encrypt", c_ulong, c_void_p, c_ulong, c_void_p, c_void_p)
        self._decrypt_init = self._bind("C_DecryptInit", c_ulong, c_void_p, c_ulong)
        self._decrypt = self._bind("C_Decrypt", c_ulong, c_void_p, c_ulong, c_void_p, c_void_p)
        self._generate_random = self._bind("C_GenerateRandom", c_ulong, c_void_p, c_ulong, optional=True)
        for name in _CALLED_BY_THE_BINDING:
            self._address_of(name)
        self._initialized_by: int | None = None

    def _address_of(self, name: str) -> int:
        address: int | None = getattr(self._table, name)
        if not address:
            raise OSError(
                f"the module has no {name}: its function list has NULL there, and the proxy needs the function"
            )
        return address

    def _bind(self, name: str, *argument_types: Any, optional: bool = False) -> Callable[..., int]:
        """A function of the module that notes when a thread is inside. A missing optional function is not supported."""
        if optional and not getattr(self._table, name):
            return lambda *_: return_values.FUNCTION_NOT_SUPPORTED
        function = CFUNCTYPE(c_ulong, *argument_types)(self._address_of(name))
        enter, leave = self.calls_inside.enter, self.calls_inside.leave

        def call(*arguments: Any) -> int:
            enter(name)
            try:
                return int(function(*arguments))
            finally:
                leave()

        return call

    @property
    def gcm_functions(self) -> tuple[int, int, int, int]:
        """The addresses of C_EncryptInit, C_Encrypt, C_DecryptInit and C_Decrypt."""
        return (
            self._address_of("C_EncryptInit"),
            self._address_of("C_Encrypt"),
            self._address_of("C_DecryptInit"),
            self._address_of("C_Decrypt"),
        )

    def initialize(self, reserved: str | None = None) -> None:
        """C_Initialize with CKF_OS_LOCKING_OK: without it, two threads in SoftHSM2 crash the process.

        ``reserved`` is passed as pReserved; NSS takes its parameters from there.

        Raises:
            CryptokiError: the module refuses; CKR_CANT_LOCK means that it cannot serve several threads.
        """
        text = None if reserved is None else create_string_buffer(reserved.encode())
        arguments = CK_C_INITIALIZE_ARGS(flags=_CKF_OS_LOCKING_OK, pReserved=None if text is None else addressof(text))
        _check("C_Initialize", self._initialize(byref(arguments)))
        self._initialized_by = os.getpid()

    def finalize(self) -> None:
        """C_Finalize. It ends every session, handle and log-in; no other call may be inside the module.

        Raises:
            CryptokiError: the module refuses.
        """
        _check("C_Finalize", self._finalize(None))
        self._initialized_by = None

    @property
    def initialized(self) -> bool:
        """Whether this process has initialised it."""
        return self._initialized_by == os.getpid()

    def require_own_process(self) -> None:
        """Refuse a module that was initialised before a fork: its locks and sessions belong to the parent.

        Raises:
            RuntimeError: this process is not the one that called :meth:`initialize`.
        """
        if self._initialized_by != os.getpid():
            raise RuntimeError("the PKCS#11 module was initialised in another process")

    def token_info(self, slot: int) -> CK_TOKEN_INFO:
        """C_GetTokenInfo."""
        info = CK_TOKEN_INFO()
        _check("C_GetTokenInfo", self._get_token_info(slot, byref(info)))
        return info

    def log_in(self, session: int, pin: bytes | None) -> None:
        """C_Login as the user. Without a PIN, the token reads it by a protected authentication path.

        Raises:
            CryptokiError: the token refuses, or fails; see :mod:`xksproxy.hsm.pkcs11.log_in`.
        """
        buffer = None if pin is None else create_string_buffer(pin, max(1, len(pin)))
        _check("C_Login", self._login(session, _CKU_USER, buffer, 0 if pin is None else len(pin)))

    def log_out(self, session: int) -> None:
        """C_Logout. Then no session of this process sees private objects.

        Raises:
            CryptokiError: the token refuses.
        """
        _check("C_Logout", self._logout(session))

    def session_state(self, session: int) -> int:
        """The session's CK_STATE (PKCS#11 section 3.3): 1 and 3 are user sessions, 0 and 2 public ones."""
        info = CK_SESSION_INFO()
        _check("C_GetSessionInfo", self._get_session_info(session, byref(info)))
        return int(info.state)

    def find_objects(self, session: int, template: Mapping[int, bytes]) -> list[int]:
        """The handles of all objects that match a template. The search is always ended with C_FindObjectsFinal."""
        attributes, _values = attribute_array(template)
        _check("C_FindObjectsInit", self._find_init(session, attributes, len(template)))
        try:
            found: list[int] = []
            batch = (c_ulong * _FIND_BATCH)()
            count = c_ulong(_FIND_BATCH)
            while count.value:
                _check("C_FindObjects", self._find(session, batch, _FIND_BATCH, byref(count)))
                found.extend(batch[: count.value])
            return found
        finally:
            self._find_final(session)

    def create_object(self, session: int, template: Mapping[int, bytes]) -> int:
        """C_CreateObject; returns the handle."""
        attributes, _values = attribute_array(template)
        handle = c_ulong()
        _check("C_CreateObject", self._create_object(session, attributes, len(template), byref(handle)))
        return handle.value

    def destroy_object(self, session: int, object_handle: int) -> None:
        """C_DestroyObject. This cannot be undone."""
        _check("C_DestroyObject", self._destroy_object(session, object_handle))

    def read_attributes(
        self,
        session: int,
        object_handle: int,
        kinds: Sequence[int],
        has: Callable[[int, Mapping[int, bytes]], bool] = lambda _kind, _values: False,
    ) -> dict[int, bytes]:
        """The values of the attributes that the object has and does not hide.

        If the module does not answer for all attributes at once, each is read separately: some modules stop at unknown
        attributes, leave the rest of the template unchanged, or fail at an attribute that they do not have. ``has`` is
        called with a kind that fails and the values that were read before, and says whether such an object has it.

        Raises:
            CryptokiError: the object cannot be read, or not an attribute that it has.
        """
        try:
            return self._read_together(session, object_handle, kinds)
        except CryptokiError as error:
            if error.return_value in return_values.OBJECT_CANNOT_BE_READ:
                raise
            values = self._read_one_by_one(session, object_handle, kinds, has)
            if not values:
                raise
            return values

    def _read_one_by_one(
        self, session: int, object_handle: int, kinds: Sequence[int], has: Callable[[int, Mapping[int, bytes]], bool]
    ) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        for kind in kinds:
            try:
                values |= self._read_together(session, object_handle, (kind,))
            except CryptokiError as error:
                unknown = error.return_value == return_values.ATTRIBUTE_TYPE_INVALID
                if error.return_value in return_values.OBJECT_CANNOT_BE_READ or (not unknown and has(kind, values)):
                    raise
        return values

    def _read_together(self, session: int, object_handle: int, kinds: Sequence[int]) -> dict[int, bytes]:
        attributes = (CK_ATTRIBUTE * len(kinds))(*(CK_ATTRIBUTE(kind, None, _UNTOUCHED) for kind in kinds))
        self._get_some(session, object_handle, attributes)
        if any(item.ulValueLen == _UNTOUCHED for item in attributes):
            raise CryptokiError("C_GetAttributeValue", return_values.ATTRIBUTE_TYPE_INVALID)
        present = [item for item in attributes if item.ulValueLen != _UNAVAILABLE]
        values = [create_string_buffer(max(1, item.ulValueLen)) for item in present]
        filled = (CK_ATTRIBUTE * len(present))(
            *(
                CK_ATTRIBUTE(item.type, addressof(value), item.ulValueLen)
                for item, value in zip(present, values, strict=True)
            ),
        )
        self._get_some(session, object_handle, filled)
        return {
            item.type: value.raw[: item.ulValueLen]
            for item, value in zip(filled, values, strict=True)
            if item.ulValueLen != _UNAVAILABLE
        }

    def _get_some(self, session: int, object_handle: int, attributes: Array[CK_ATTRIBUTE]) -> None:
        """C_GetAttributeValue. Unknown and sensitive attributes are marked by the module, and are not a failure."""
        return_value = self._get_attribute_value(session, object_handle, attributes, len(attributes))
        if return_value not in (return_values.OK, 0x011, return_values.ATTRIBUTE_TYPE_INVALID):
            raise CryptokiError("C_GetAttributeValue", return_value)

    def random_bytes(self, session: int, count: int) -> bytes:
        """Bytes from the token's generator."""
        buffer = create_string_buffer(count)
        _check("C_GenerateRandom", self._generate_random(session, buffer, count))
        return buffer.raw

    def gcm_encrypt(self, session: int, key: int, *, iv: bytes, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """AES-GCM under a key handle (PKCS#11 mechanisms, section 2.12).

        Returns the output (ciphertext, 16-byte tag and what the module appends) and the IV buffer after the call, since
        some modules write their own IV into it. C_Encrypt is called once with a large enough buffer: a size query costs
        a round trip, and NSS answers it wrongly. The module gets a copy of each buffer, because it may write to it.

        Raises:
            CryptokiError: either call fails. Then the session must not be used again.
        """
        mechanism, _parameters, iv_buffer, _aad = _gcm_mechanism(iv, aad)
        _check("C_EncryptInit", self._encrypt_init(session, byref(mechanism), key))
        data = create_string_buffer(plaintext, len(plaintext))
        output = create_string_buffer(len(plaintext) + _TAG_BYTES + _SLACK_BYTES)
        length = c_ulong(sizeof(output))
        _check("C_Encrypt", self._encrypt(session, data, len(plaintext), output, byref(length)))
        return output.raw[: length.value], iv_buffer.raw

    def gcm_decrypt(self, session: int, key: int, *, iv: bytes, aad: bytes, sealed: bytes) -> bytes:
        """The inverse of :meth:`gcm_encrypt`; ``sealed`` is the ciphertext followed by the whole tag.

        Raises:
            CryptokiError: either call fails; from C_Decrypt it may mean that the tag is wrong.
        """
        mechanism, _parameters, _iv, _aad = _gcm_mechanism(iv, aad)
        _check("C_DecryptInit", self._decrypt_init(session, byref(mechanism), key))
        data = create_string_buffer(sealed, len(sealed))
        output = create_string_buffer(len(sealed) + _SLACK_BYTES)
        length = c_ulong(sizeof(output))
        _check("C_Decrypt", self._decrypt(session, data, len(sealed), output, byref(length)))
        return output.raw[: length.value]


def _gcm_mechanism(iv: bytes, aad: bytes) -> tuple[CK_MECHANISM, CK_GCM_PARAMS, Array[c_char], Array[c_char]]:
    """The mechanism, and the buffers that it points to, which must live as long as the operation.

    The IV is in a new writable buffer each time: a module may write into it, and a bytes object would then change for
    all its users.
    """
    iv_buffer = create_string_buffer(iv, len(iv))
    aad_buffer = create_string_buffer(aad, len(aad))
    parameters = CK_GCM_PARAMS(addressof(iv_buffer), len(iv), len(iv) * 8, addressof(aad_buffer), len(aad), _TAG_BITS)
    mechanism = CK_MECHANISM(_CKM_AES_GCM, addressof(parameters), sizeof(parameters))
    return mechanism, parameters, iv_buffer, aad_buffer


def _check(function: str, return_value: int) -> None:
    if return_value != return_values.OK:
        raise CryptokiError(function, return_value)
