"""What a key on a token is called: by its label, by its CKA_ID, or by both."""

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

from xksproxy.config.pkcs11_uri import SCHEME, UriError, parse_uri, text_value

MAXIMUM_ID_BYTES: Final = 256

_ATTRIBUTES: Final = frozenset({"object", "id", "type"})
_OF_THE_TOKEN: Final = dict.fromkeys(
    ("token", "serial", "manufacturer", "model", "slot-id"),
    "hsms of the key store says where its keys are; leave it out here and name the token in [[hsm]]",
)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """The attributes that a key must have. At least one of them is set.

    As text, which is how the engine passes it on and how records are kept, it is the label alone, or a PKCS#11 URI if
    there is a CKA_ID. Each name has one text.
    """

    label: str | None = None
    """CKA_LABEL."""

    object_id: bytes | None = None
    """CKA_ID."""

    def __str__(self) -> str:
        """The one text of this name."""
        if self.object_id is None and self.label is not None and not self.label.startswith(SCHEME):
            return self.label
        attributes = []
        if self.object_id is not None:
            attributes.append("id=" + "".join(f"%{byte:02X}" for byte in self.object_id))
        if self.label is not None:
            attributes.append("object=" + quote(self.label, safe=""))
        return SCHEME + ";".join(attributes)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name of a text: a label, or a PKCS#11 URI.

        Raises:
            UriError: it starts as a URI and is none that names a key.
        """
        if not text.startswith(SCHEME):
            return cls(text)
        values = parse_uri(text, _ATTRIBUTES, _OF_THE_TOKEN)
        if values.get("type", b"secret-key") != b"secret-key":
            raise UriError("type must be secret-key")
        label = text_value("object", values["object"]) if "object" in values else None
        object_id = values.get("id")
        if label is None and object_id is None:
            raise UriError("it names no key: expected object (CKA_LABEL) or id (CKA_ID)")
        if object_id is not None and not 0 < len(object_id) <= MAXIMUM_ID_BYTES:
            raise UriError(f"id has {len(object_id)} bytes; expected 1 to {MAXIMUM_ID_BYTES}")
        return cls(label, object_id)

    @classmethod
    def of_settings(cls, label: str | None, object_id: str | None, uri: str | None) -> Self | None:
        """The name that settings give; None if they give none.

        Raises:
            ValueError: object_id is not hexadecimal, uri is no URI of a key, or uri is not alone.
        """
        if uri is not None:
            if label is not None or object_id is not None:
                raise ValueError("uri goes without label and object_id; write them into the URI: object=…;id=…")
            if not uri.startswith(SCHEME):
                raise UriError(f"expected a PKCS#11 URI that starts with {SCHEME}")
            return cls.parse(uri)
        if label is None and object_id is None:
            return None
        return cls(label, None if object_id is None else id_from_hex(object_id))


def id_from_hex(text: str) -> bytes:
    """A CKA_ID from hexadecimal digits, with or without colons between the bytes.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        value = b""
    if not 0 < len(value) <= MAXIMUM_ID_BYTES or any(character.isspace() for character in text):
        raise ValueError(f'object_id: expected CKA_ID in hexadecimal, such as "0a1b", got {text}')
    return value
