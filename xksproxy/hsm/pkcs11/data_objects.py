"""Data objects (CKO_DATA) on a token: small values that a token keeps as it keeps keys."""

from collections.abc import Mapping
from ctypes import c_ulong
from typing import Final

from xksproxy.hsm.pkcs11.cryptoki import Cryptoki, CryptokiError
from xksproxy.hsm.pkcs11.return_values import OBJECT_HANDLE_INVALID

_CKA_CLASS: Final = 0x000
_CKA_TOKEN: Final = 0x001
_CKA_PRIVATE: Final = 0x002
_CKA_LABEL: Final = 0x003
_CKA_APPLICATION: Final = 0x010
_CKA_VALUE: Final = 0x011
_CKO_DATA: Final = bytes(c_ulong(0))
_ATTEMPTS: Final = 3


class DataObjects:
    """The data objects of one label, in one session. Methods raise CryptokiError if the token refuses or fails."""

    def __init__(self, cryptoki: Cryptoki, session: int, label: str, *, private: bool) -> None:
        """``private``: new objects are visible after a log-in only. A token without log-in may refuse such objects."""
        self._cryptoki = cryptoki
        self._session = session
        self._kind = {_CKA_CLASS: _CKO_DATA, _CKA_TOKEN: b"\1", _CKA_LABEL: label.encode()}
        self._private = private

    def read(self) -> Mapping[int, bytes]:
        """The values of all of them, by handle. It begins again if another process removes one meanwhile."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._read_once()
            except CryptokiError as error:
                if error.return_value != OBJECT_HANDLE_INVALID:
                    raise
        return self._read_once()

    def _read_once(self) -> Mapping[int, bytes]:
        return {
            handle: self._cryptoki.read_attributes(self._session, handle, (_CKA_VALUE,)).get(_CKA_VALUE, b"")
            for handle in self._cryptoki.find_objects(self._session, self._kind)
        }

    def create(self, value: bytes, application: str) -> None:
        """Make one more."""
        template = {
            **self._kind,
            _CKA_PRIVATE: b"\1" if self._private else b"\0",
            _CKA_APPLICATION: application.encode(),
            _CKA_VALUE: value,
        }
        self._cryptoki.create_object(self._session, template)

    def destroy(self, handle: int) -> None:
        """Remove one. This cannot be undone."""
        self._cryptoki.destroy_object(self._session, handle)
