"""The metrics that workers count: names, texts, labels, and the rule that merges the values of workers."""

import math
from typing import Final

from xksproxy.telemetry.series import Family, Kind

_EDGES: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25),
    *(0.5, 1.0, math.inf),
)
_MAXIMUM_DECRYPT_SERIES: Final = 500


def _duration(part: str, text: str) -> Family:
    name = f"xksproxy_{part}_duration_seconds"
    return Family(name, text, ("keystore", "xks_operation"), Kind.HISTOGRAM, edges=_EDGES)


REQUESTS: Final = Family(
    "xksproxy_requests",
    "Requests answered (CloudWatch: XksProxyErrors, which counts all of them).",
    ("keystore", "kms_operation", "xks_operation", "error_type", "exception"),
    Kind.COUNTER,
)
REQUEST_DURATION: Final = _duration(
    "request", "From the head of a request to its response (CloudWatch: XksProxyLatency)."
)
QUEUE_DURATION: Final = _duration("queue", "The part of it that the request waited for an HSM session.")
HSM_DURATION: Final = _duration("hsm", "The part of it that the request spent in HSM sessions.")
DECRYPTS: Final = Family(
    "xksproxy_decrypts",
    "Decrypts that succeeded, by external key and principal. Sessions of a role count as the role.",
    ("keystore", "key_id", "principal"),
    Kind.COUNTER,
    most_series=_MAXIMUM_DECRYPT_SERIES,
)
AUDIT_DROPPED: Final = Family(
    "xksproxy_audit_lines_dropped",
    "Audit lines that were dropped because too many lines waited.",
    (),
    Kind.COUNTER,
)
PROXY_PROTOCOL_REFUSALS: Final = Family(
    "xksproxy_proxy_protocol_refusals",
    "Connections that were closed because their PROXY protocol header was missing, wrong or not expected.",
    ("cause",),
    Kind.COUNTER,
)
HSM_RETURNS: Final = Family(
    "xksproxy_hsm_returns_to_service",
    "Times that an HSM came into service in a worker, including the first one.",
    ("hsm",),
    Kind.COUNTER,
)
IN_FLIGHT: Final = Family("xksproxy_requests_in_flight", "Authenticated requests in progress.", (), Kind.SUM)
CONNECTIONS: Final = Family("xksproxy_connections", "Open connections to the public port.", (), Kind.SUM)
WORKERS: Final = Family("xksproxy_workers", "Worker processes that serve.", (), Kind.SUM)
WORKERS_READY: Final = Family(
    "xksproxy_workers_ready", "Worker processes whose /readyz is 200; see [health] ready_when.", (), Kind.SUM
)
RELOAD_FAILED: Final = Family(
    "xksproxy_config_reload_failed",
    "Workers whose last reload was refused. They use the configuration before it.",
    (),
    Kind.SUM,
)
CONDITIONS: Final = Family(
    "xksproxy_conditions",
    "Workers that report a condition: what is wrong with the machine, an HSM or a key store.",
    ("severity", "cause", "keystore", "hsm"),
    Kind.SUM,
)
LOADED_AT: Final = Family(
    "xksproxy_config_loaded_timestamp_seconds",
    "When the configuration in use was loaded.",
    (),
    Kind.LEAST,
)
CONFIG_NUMBER: Final = Family(
    "xksproxy_config_number",
    "The number of the configuration in use, of the worker with the oldest one. A start is 1, each accepted reload +1.",
    (),
    Kind.LEAST,
)
CONFIG_ACCEPTED_NUMBER: Final = Family(
    "xksproxy_config_accepted_number",
    "The number of the configuration that was accepted last.",
    (),
    Kind.GREATEST,
)
CONFIG_FILES_DIFFER: Final = Family(
    "xksproxy_config_files_differ_timestamp_seconds",
    "Since when configuration file or policies differ from what was accepted; 0 if they do not.",
    (),
    Kind.GREATEST,
)
CLOCK_OFFSET: Final = Family(
    "xksproxy_clock_offset_seconds",
    "Median number of seconds by which the clock is ahead of the latest signatures, in the worker that sees most.",
    (),
    Kind.FURTHEST,
)
HSM_STATE: Final = Family(
    "xksproxy_hsm_state",
    "Workers that see an HSM in a state (CloudWatch: XksExternalKeyManagerStates).",
    ("hsm", "state"),
    Kind.SUM,
)
HSM_SESSIONS: Final = Family(
    "xksproxy_hsm_sessions",
    "HSM sessions that are idle, busy, or stuck in a call that does not return.",
    ("hsm", "state"),
    Kind.SUM,
)
HSM_CALL_SECONDS: Final = Family(
    "xksproxy_hsm_call_seconds",
    "How long a GCM call takes inside the module at present, in the slowest worker.",
    ("hsm",),
    Kind.GREATEST,
)
HSM_TOO_SLOW: Final = Family(
    "xksproxy_hsm_too_slow_to_verify",
    "Workers in which two calls exceed the deadline, so that no Encrypt with an integrity value can succeed.",
    ("hsm",),
    Kind.SUM,
)

FAMILIES: Final = (
    *(REQUESTS, REQUEST_DURATION, QUEUE_DURATION, HSM_DURATION, DECRYPTS),
    *(AUDIT_DROPPED, PROXY_PROTOCOL_REFUSALS, HSM_RETURNS),
    *(IN_FLIGHT, CONNECTIONS, WORKERS, WORKERS_READY, RELOAD_FAILED, CONDITIONS, LOADED_AT, CLOCK_OFFSET),
    *(CONFIG_NUMBER, CONFIG_ACCEPTED_NUMBER, CONFIG_FILES_DIFFER),
    *(HSM_STATE, HSM_SESSIONS, HSM_CALL_SECONDS, HSM_TOO_SLOW),
)
"""All families of this module."""

KMS_OPERATIONS: Final = frozenset(
    {
        "CancelKeyDeletion",
        "ConnectCustomKeyStore",
        "CreateCustomKeyStore",
        "CreateKey",
        "Decrypt",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "KmsHealthCheck",
        "ReEncrypt",
        "UpdateCustomKeyStore",
    }
)
RETRYABLE: Final = frozenset({"InternalException", "DependencyTimeoutException", "ThrottlingException"})
