"""Every reading of an open point of the specification passes, and checks of missing features do not apply."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Behaviour, operations
from stub_proxy.http import Request, Response, json_response
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.checks import CHAPTERS
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.runner import run_check
from xksproxy_tools.conformance.subject import Keys, Subject

from xksproxy.spec.errors import (
    AccessDeniedException,
    UnsupportedOperationException,
    ValidationException,
)
from xksproxy.spec.uri import Operation

OF_THE_APIS = ("health", "metadata", "encrypt", "decrypt", "tampering", "integrity", "errors")
LONG = {
    *("enc-iv-unique", "dec-everywhere", "dec-after-refusals"),
    *("tamper-ciphertext-bits", "tamper-iv-bits", "tamper-tag-bits", "tamper-aad-bits"),
}
"""Checks that send hundreds of requests and do not depend on a reading."""


def lengths_are_invalid(iv: bytes, tag: bytes, metadata: bytes) -> None:
    if len(iv) not in (12, 16) or len(tag) != 16 or len(metadata) > 20:
        raise ValidationException("a length is wrong")


def algorithms_are_unsupported(call: Call) -> None:
    try:
        api.check_algorithm(call)
    except ValidationException:
        raise UnsupportedOperationException("not implemented") from None


def empty_is_invalid(name: str, text: str) -> bytes:
    if not text:
        raise ValidationException(f"{name} is empty")
    return api.decode_base64(name, text)


def disabled_is_a_state(call: Call) -> dict[str, Any]:
    api.check_state(api.find_key(call))
    return api.get_key_metadata(call)


def keys_first(operation: Operation) -> Callable[[Call], dict[str, Any]]:
    """The key is looked up before anything else is read."""

    def run(call: Call) -> dict[str, Any]:
        api.find_key(call)
        return api.OPERATIONS[operation](call)

    return run


def one_account_only(call: Call) -> None:
    api.check_metadata(call)
    metadata = call.message["requestMetadata"]
    denied = metadata["kmsOperation"] == "OperationOfTheFuture" or "999999999999" in metadata.get("awsPrincipalArn", "")
    if call.route.operation is not Operation.GET_HEALTH_STATUS and denied:
        raise AccessDeniedException("no policy allows it")


def no_messages(request: Request, response: Response) -> Response:
    found = json.loads(response.body)
    return json_response(response.status, {"errorName": found["errorName"]}) if "errorName" in found else response


def unnamed_405(request: Request, response: Response) -> Response:
    return json_response(405, {}) if response.status == 405 else response


READINGS: dict[str, dict[str, Any]] = {
    "no metadata, IV of 16 bytes, the least sizes, Q-3, errors without messages": {
        "ciphertext_metadata": None,
        "iv_bytes": 16,
        "plaintext_limit": 4300,
        "check_lengths": lengths_are_invalid,
        "finish": no_messages,
    },
    "empty metadata, larger sizes, Q-4, Q-5, a 405 without a name": {
        "ciphertext_metadata": b"",
        "plaintext_limit": 65536,
        "aad_limit": 65535,
        "check_algorithm": algorithms_are_unsupported,
        **operations(GET_KEY_METADATA=disabled_is_a_state),
        "finish": unnamed_405,
    },
    "metadata of 20 bytes, Q-2, Q-13, denials": {
        "ciphertext_metadata": bytes(range(20)),
        **operations(ENCRYPT=keys_first(Operation.ENCRYPT), DECRYPT=keys_first(Operation.DECRYPT)),
        "decode_base64": empty_is_invalid,
        "check_metadata": one_account_only,
    },
}
"""Choices that the specification leaves to a proxy, several at a time. Q-n is an open question of the requirements."""


def _failures(subject: Subject) -> list[object]:
    checks = [(chapter, check) for chapter in CHAPTERS if chapter.name in OF_THE_APIS for check in chapter.checks]
    results = [run_check(chapter, check, subject) for chapter, check in checks if check.id not in LONG]
    return [result for result in results if result.outcome is Outcome.FAILED]


@pytest.mark.parametrize("changes", READINGS.values(), ids=READINGS.keys())
def test_a_proxy_with_other_readings_of_open_points_passes(
    stub: StubProxy, subject: Subject, changes: dict[str, Any]
) -> None:
    stub.behave(Behaviour(**changes))

    assert not _failures(subject)


def test_checks_that_need_further_keys_do_not_fail_without_them(subject: Subject) -> None:
    subject.keys = Keys("usable")

    assert not _failures(subject)


def test_checks_of_metadata_do_not_apply_without_metadata(stub: StubProxy, subject: Subject) -> None:
    stub.behave(Behaviour(ciphertext_metadata=None))
    named = {check.id: (chapter, check) for chapter in CHAPTERS for check in chapter.checks}

    for check_id in ("tamper-metadata", "tamper-metadata-bits", "tamper-metadata-emptied", "cdiv-swapped"):
        assert run_check(*named[check_id], subject).outcome is Outcome.NOT_APPLICABLE
