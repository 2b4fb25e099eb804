"""What a token is called: by its label, its serial number, or a PKCS#11 URI."""

from dataclasses import astuple, dataclass
from typing import Final, Self

from xksproxy.config.model import Hsm
from xksproxy.config.pkcs11_uri import UriError, parse_uri, text_value

_ATTRIBUTES: Final = frozenset({"token", "serial", "manufacturer", "model", "slot-id"})
_OF_A_KEY: Final = dict.fromkeys(("object", "id", "type"), "it names a key; use it in uri of a key of a key store")


@dataclass(frozen=True, slots=True)
class TokenName:
    """The attributes that a token must have. At least one of them is set."""

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None

    def __str__(self) -> str:
        """For messages: the label in quotes if there is nothing else, as in ``'production', serial 1234``."""
        parts = [] if self.label is None else [repr(self.label)]
        others = (("serial", self.serial), ("manufacturer", self.manufacturer), ("model", self.model))
        parts += [f"{name} {value!r}" for name, value in others if value is not None]
        if self.slot_id is not None:
            parts.append(f"slot {self.slot_id}")
        return ", ".join(parts)

    def includes(self, other: "TokenName") -> bool:
        """Whether it has all attributes of another name, so that the other one fits each token that this one fits."""
        return all(
            wanted is None or _without_end(wanted) == _without_end(own)
            for own, wanted in zip(astuple(self), astuple(other), strict=True)
        )

    def fits(self, *, label: str, serial: str, manufacturer: str, model: str, slot_id: int) -> bool:
        """Whether a token with these attributes is the one. Blanks at the end of text do not count."""
        texts = (
            (self.label, label),
            (self.serial, serial),
            (self.manufacturer, manufacturer),
            (self.model, model),
        )
        same = all(wanted is None or wanted.rstrip() == found.rstrip() for wanted, found in texts)
        return same and self.slot_id in (None, slot_id)

    @classmethod
    def of_settings(cls, hsm: Hsm) -> Self:
        """The token of an ``[[hsm]]``.

        Raises:
            ValueError: its settings name none, or uri is not alone or no URI of a token.
        """
        if hsm.uri is None:
            if hsm.token is None and hsm.serial is None:
                raise ValueError("no token is named; set token (its label), serial or uri")
            return cls(hsm.token, hsm.serial)
        if hsm.token is not None or hsm.serial is not None:
            raise ValueError("uri goes without token and serial; write them into the URI: token=…;serial=…")
        values = parse_uri(hsm.uri, _ATTRIBUTES, _OF_A_KEY)
        texts = {name: text_value(name, value) for name, value in values.items() if name != "slot-id"}
        slot = values.get("slot-id")
        if not values:
            raise UriError("it names no token: expected token, serial, manufacturer, model or slot-id")
        if slot is not None and not (slot.isdigit() and len(slot) <= 20):  # noqa: PLR2004 - digits of a CK_ULONG
            raise UriError("slot-id is not a number")
        return cls(
            texts.get("token"),
            texts.get("serial"),
            texts.get("manufacturer"),
            texts.get("model"),
            None if slot is None else int(slot),
        )


def _without_end(value: str | int | None) -> str | int | None:
    """A value without the blanks at its end, which tokens pad their attributes with."""
    return value.rstrip() if isinstance(value, str) else value
