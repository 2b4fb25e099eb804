"""Conditions: problems of a machine, its HSMs and its key stores."""

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """The meaning of a condition for callers, the worst first."""

    UNAVAILABLE = "UNAVAILABLE"
    """Encrypt requests that need the HSM, the key store or the machine are refused."""

    DEGRADED = "DEGRADED"
    """Requests are answered, but some perhaps late or with an error. An operator should act."""


class Cause(StrEnum):
    """The cause of a condition. docs/troubleshooting.md explains each."""

    HSM_DOWN = "hsm-out-of-service"
    HSM_DEGRADED = "hsm-degraded"
    NO_HSM = "no-hsm"
    KEY_DIFFERS = "key-differs"
    KEY_MISSING = "key-missing"
    KEY_AMBIGUOUS = "key-ambiguous"
    KEY_RESTRICTED = "key-restricted"
    KEY_UNRECORDED = "key-unrecorded"
    KEY_LIMIT = "key-limit"
    BLOCKED = "blocked"
    STATE = "state-unusable"
    STATE_DOUBT = "state-in-doubt"
    STATE_WITNESS = "state-without-witness"
    AUDIT = "audit-refusing"
    AUDIT_LOST = "audit-not-written"
    WORKERS = "workers-missing"
    RUNTIME = "runtime-removed"
    RUNTIME_FULL = "runtime-full"
    RELOAD = "reload-refused"
    FILES = "files-refused"
    CLOCK = "clock-wrong"
    CERTIFICATE = "certificate-expires"


class Condition(msgspec.Struct, frozen=True, order=True):
    """A problem of an HSM or of a key store; of the machine if both are empty."""

    severity: Severity
    cause: Cause
    keystore: str
    hsm: str
    text: str

    @property
    def concerns_every_store(self) -> bool:
        """Whether Encrypt requests of every key store are refused, or soon will be."""
        # Without the runtime directory, requests are answered.
        of_machine = not self.keystore and not self.hsm and self.cause is not Cause.RUNTIME
        return of_machine and self.severity is Severity.UNAVAILABLE

    @property
    def subject(self) -> tuple[str, ...]:
        """Severity, cause, key store and HSM. They identify the condition while its text changes."""
        return (self.severity.value, self.cause.value, self.keystore, self.hsm)
