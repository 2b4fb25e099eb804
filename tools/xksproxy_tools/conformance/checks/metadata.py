"""GetKeyMetadata (R-META-*)."""

from collections.abc import Callable
from typing import Final

from xksproxy.spec.errors import InvalidKeyUsageException, InvalidStateException
from xksproxy.spec.limits import MAXIMUM_KEY_USAGES
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import Body, expect_error, expect_success, text_member
from xksproxy_tools.conformance.messages import metadata_only
from xksproxy_tools.conformance.outcome import CheckFailed, expect, required
from xksproxy_tools.conformance.subject import Keys, Subject

_OPERATION: Final = Operation.GET_KEY_METADATA
_CRYPTOGRAPHY: Final = frozenset({"ENCRYPT", "DECRYPT"})
_STATES: Final = ("ENABLED", "DISABLED")


def _metadata(subject: Subject, key_id: str | None = None) -> Body:
    key = key_id or subject.keys.usable
    return expect_success(subject.call(_OPERATION, metadata_only(_OPERATION), key), key)


def _usages(metadata: Body) -> list[str]:
    usages = metadata.get("keyUsage")
    if not isinstance(usages, list) or not all(isinstance(usage, str) for usage in usages):
        raise CheckFailed("the member keyUsage, an array of strings", f"{usages!r}"[:100])
    return usages


def _named(keys: Keys) -> list[str]:
    """The existing keys that are not disabled."""
    return [key for key in (keys.usable, keys.encrypt_only, keys.decrypt_only, keys.impotent) if key is not None]


def _members(subject: Subject) -> None:
    for key in _named(subject.keys):
        metadata = _metadata(subject, key)
        text_member(metadata, "keySpec")
        _usages(metadata)
        status = text_member(metadata, "keyStatus")
        expect(status in _STATES, f"keyStatus {' or '.join(_STATES)} ({key})", status)


def _key_spec(subject: Subject) -> None:
    spec = text_member(_metadata(subject), "keySpec")
    expect(spec == "AES_256", "keySpec AES_256", spec)


def _usage_of(
    find: Callable[[Keys], str | None], option: str, usages: frozenset[str]
) -> Callable[[Subject], str | None]:
    """A check that a key has exactly these of the usages ENCRYPT and DECRYPT."""

    def run(subject: Subject) -> str:
        found = _usages(_metadata(subject, required(find(subject.keys), option)))
        wanted = " and ".join(sorted(usages)) or "none"
        expect(_CRYPTOGRAPHY.intersection(found) == usages, f"of ENCRYPT and DECRYPT in keyUsage: {wanted}", found)
        return f"answered {', '.join(found) or 'none'}"

    return run


def _usage_is_true(subject: Subject) -> None:
    """Encrypt must agree with keyUsage."""
    for key in _named(subject.keys):
        usages = _usages(_metadata(subject, key))
        response = subject.encrypt(b"plaintext", key_id=key)
        if "ENCRYPT" in usages:
            expect_success(response, f"Encrypt with {key}, whose keyUsage has ENCRYPT")
        else:
            expect_error(response, InvalidKeyUsageException, when=f"{key}, whose keyUsage lacks ENCRYPT")


def _usage_count(subject: Subject) -> None:
    for key in _named(subject.keys):
        usages = _usages(_metadata(subject, key))
        expect(len(usages) <= MAXIMUM_KEY_USAGES, f"at most {MAXIMUM_KEY_USAGES} usages ({key})", len(usages))


def _enabled(subject: Subject) -> None:
    """Also where keys cannot be disabled."""
    status = text_member(_metadata(subject), "keyStatus")
    subject.seal(b"plaintext")
    expect(status == "ENABLED", "keyStatus ENABLED of a key that encrypts", status)


def _disabled(subject: Subject) -> str:
    """The catalogue does not define which of the two is returned (Q-5)."""
    key = required(subject.keys.disabled, "--disabled-key")
    response = subject.call(_OPERATION, metadata_only(_OPERATION), key)
    if response.status == InvalidStateException.http_status:
        expect_error(response, InvalidStateException, when=key)
        return "answered InvalidStateException"
    status = text_member(expect_success(response, key), "keyStatus")
    expect(status == "DISABLED", "keyStatus DISABLED", status)
    return "answered DISABLED"


CHECKS: Final[tuple[Check, ...]] = (
    Check("meta-members", ("R-META-1",), Level.MUST, "keySpec, keyUsage and keyStatus are returned", _members),
    Check("meta-key-spec", ("R-META-2",), Level.MUST, "keySpec is AES_256", _key_spec),
    Check(
        "meta-usage",
        ("R-META-3",),
        Level.MUST,
        "keyUsage has ENCRYPT and DECRYPT",
        _usage_of(lambda keys: keys.usable, "--key", _CRYPTOGRAPHY),
    ),
    Check(
        "meta-usage-encrypt-only",
        ("R-META-3",),
        Level.MUST,
        "keyUsage of an encrypt-only key lacks DECRYPT",
        _usage_of(lambda keys: keys.encrypt_only, "--encrypt-only-key", frozenset({"ENCRYPT"})),
    ),
    Check(
        "meta-usage-decrypt-only",
        ("R-META-3",),
        Level.MUST,
        "keyUsage of a decrypt-only key lacks ENCRYPT",
        _usage_of(lambda keys: keys.decrypt_only, "--decrypt-only-key", frozenset({"DECRYPT"})),
    ),
    Check(
        "meta-usage-impotent",
        ("R-META-3",),
        Level.MUST,
        "keyUsage of an impotent key has neither",
        _usage_of(lambda keys: keys.impotent, "--impotent-key", frozenset()),
    ),
    Check("meta-usage-true", ("R-META-3",), Level.MUST, "Encrypt does what keyUsage says", _usage_is_true),
    Check("meta-usage-count", ("R-META-4",), Level.MUST, "keyUsage has at most 10 values", _usage_count),
    Check("meta-enabled", ("R-META-5",), Level.MUST, "A key that encrypts is ENABLED", _enabled),
    Check("meta-disabled", ("R-META-1",), Level.MUST, "A disabled key is reported as disabled", _disabled),
)
