"""What can be wrong with a machine, its HSMs and its key stores."""

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """What a condition means to callers, the worst first."""

    UNAVAILABLE = "UNAVAILABLE"
    """Encrypt requests that need the HSM, the key store or the machine are refused."""

    DEGRADED = "DEGRADED"
    """Requests are answered, some of them perhaps late or refused; an operator should act."""


class Cause(StrEnum):
    """Why. docs/troubleshooting.md has a section for each."""

    HSM_DOWN = "hsm-out-of-service"
    HSM_DEGRADED = "hsm-degraded"
    NO_HSM = "no-hsm"
    KEY_DIFFERS = "key-differs"
    KEY_MISSING = "key-missing"
    KEY_AMBIGUOUS = "key-ambiguous"
    KEY_LIMIT = "key-limit"
    BLOCKED = "blocked"
    STATE = "state-unusable"
    AUDIT = "audit-refusing"
    AUDIT_LOST = "audit-not-written"
    RUNTIME = "runtime-removed"
    RUNTIME_FULL = "runtime-full"
    RELOAD = "reload-refused"
    FILES = "files-refused"
    CLOCK = "clock-wrong"
    CERTIFICATE = "certificate-expires"


class Condition(msgspec.Struct, frozen=True, order=True):
    """Something that is wrong with an HSM, with a key store, or with the machine if both are empty."""

    severity: Severity
    cause: Cause
    keystore: str
    hsm: str
    text: str

    @property
    def subject(self) -> tuple[str, ...]:
        """Severity, cause, key store and HSM: what is the same while the text changes."""
        return (self.severity.value, self.cause.value, self.keystore, self.hsm)
