"""GetHealthStatus to the letter (R-HLTH-*, Q-1, Q-14)."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from server_support import (
    HEALTH_BODY,
    HEALTH_MESSAGE,
    OwnProxy,
    Wire,
    assert_json,
    assert_refused,
    encoded,
    signed_post,
)
from support import Proxy, eventually
from xksproxy_tools.development.softhsm import write_configuration

from xksproxy import __version__
from xksproxy.client.xks import Answer, XksClient
from xksproxy.spec.uri import Operation

REQUEST_METADATA = HEALTH_MESSAGE["requestMetadata"]


@pytest.fixture
def health(client: XksClient) -> Callable[..., Answer]:
    """GetHealthStatus with members of requestMetadata changed or added."""

    def call(**changes: Any) -> Answer:
        return client.call(Operation.GET_HEALTH_STATUS, {"requestMetadata": {**REQUEST_METADATA, **changes}})

    return call


def status_in(answer: Answer) -> str:
    return answer.body["ekmFleetDetails"][0]["healthStatus"]


def test_the_answer_has_exactly_the_fields_of_the_specification(health: Callable[..., Answer]) -> None:
    eventually(lambda: status_in(health()), "ACTIVE")  # DEGRADED while another process logs in to the token

    answer = health()

    assert answer.status == 200
    assert answer.body.keys() == {
        "xksProxyFleetSize",
        "xksProxyVendor",
        "xksProxyModel",
        "ekmVendor",
        "ekmFleetDetails",
    }
    (instance,) = answer.body["ekmFleetDetails"]
    assert instance.keys() == {"id", "model", "healthStatus"}
    assert instance["id"] == "softhsm"
    assert instance["healthStatus"] in {"ACTIVE", "DEGRADED", "UNAVAILABLE"}
    assert "SoftHSM" in instance["model"]
    assert "SoftHSM" in answer.body["ekmVendor"]
    assert answer.body["xksProxyVendor"]
    assert __version__ in answer.body["xksProxyModel"]


def test_the_fleet_size_is_an_integer_above_zero(health: Callable[..., Answer]) -> None:
    size = health().body["xksProxyFleetSize"]

    assert (type(size), size) == (int, 1)


def test_the_answer_is_json_without_a_blank_after_a_colon(proxy: Proxy, wire: Wire) -> None:
    reply = wire.ask(signed_post(proxy))

    assert_json(reply)
    assert b'"healthStatus":"' in reply.content


def test_every_key_store_answers_its_own_credentials(proxy: Proxy) -> None:
    for prefix, credential in (
        ("/dev", proxy.credential),
        ("/dev", proxy.second_credential),
        ("", proxy.other_credential),
    ):
        with XksClient(proxy.endpoint(prefix, credential), proxy.context()) as client:
            assert client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE).status == 200


def test_the_check_is_repeated_on_every_session_of_every_worker(health: Callable[..., Answer]) -> None:
    eventually(lambda: {status_in(health()) for _ in range(40)}, {"ACTIVE"})


@pytest.mark.parametrize("operation", ["KmsHealthCheck", "ConnectCustomKeyStore", "SomethingNew", ""])
def test_any_kms_operation_will_do(health: Callable[..., Answer], operation: str) -> None:
    assert health(kmsOperation=operation).status == 200


@pytest.mark.parametrize("request_id", ["", "not a uuid", "x" * 3000, "ü\u2028\u0000"])
def test_the_request_id_is_opaque(health: Callable[..., Answer], request_id: str) -> None:
    assert health(kmsRequestId=request_id).status == 200


def test_unknown_members_are_accepted(client: XksClient) -> None:
    message = {"requestMetadata": {**REQUEST_METADATA, "awsPrincipalArn": 7, "more": {"x": [None]}}, "other": 1}

    assert client.call(Operation.GET_HEALTH_STATUS, message).status == 200


@pytest.mark.parametrize(
    "message",
    [{}, {"requestMetadata": {}}, {"requestMetadata": None}, {"requestMetadata": "x"}, {"requestMetadata": [{}]}],
)
def test_a_missing_or_empty_request_metadata_is_a_validation_error(client: XksClient, message: dict[str, Any]) -> None:
    assert_refused(client.call(Operation.GET_HEALTH_STATUS, message), 400, "ValidationException")


@pytest.mark.parametrize("member", ["kmsOperation", "kmsRequestId"])
def test_a_missing_member_is_a_validation_error(client: XksClient, member: str) -> None:
    kept = {name: value for name, value in REQUEST_METADATA.items() if name != member}

    answer = client.call(Operation.GET_HEALTH_STATUS, {"requestMetadata": kept})

    assert_refused(answer, 400, "ValidationException")
    assert member in answer.body["errorMessage"]


@pytest.mark.parametrize("value", [None, 7, False, ["x"], {}])
@pytest.mark.parametrize("member", ["kmsOperation", "kmsRequestId"])
def test_a_member_of_the_wrong_type_is_a_validation_error(
    health: Callable[..., Answer], member: str, value: object
) -> None:
    assert_refused(health(**{member: value}), 400, "ValidationException")


@pytest.mark.slow
def test_a_token_that_cannot_be_reached_is_unavailable_in_a_200_and_crypto_fails_with_json(
    own_proxy: OwnProxy, request_metadata: dict[str, str]
) -> None:
    proxy = own_proxy.start(
        server="fleet_size = 3",
        edit=lambda text: text.replace('token = "xksproxy-dev"', 'token = "nobody"'),
        serving=False,
    )
    message = {"requestMetadata": request_metadata, "plaintext": encoded(b"x"), "encryptionAlgorithm": "AES_GCM"}

    with XksClient(proxy.endpoint(), proxy.context()) as client:
        health = client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE)
        encryption = client.call(Operation.ENCRYPT, message, "demo-key")
        description = client.call(Operation.GET_KEY_METADATA, message, "demo-key")

    assert (health.status, health.body["xksProxyFleetSize"]) == (200, 3)
    assert [instance["healthStatus"] for instance in health.body["ekmFleetDetails"]] == ["UNAVAILABLE"]
    assert health.body["ekmVendor"]
    assert_refused(encryption, 500, "InternalException")
    assert_refused(description, 500, "InternalException")


@pytest.mark.slow
def test_health_says_what_is_true_now(own_proxy: OwnProxy) -> None:
    """R-HLTH-2: the proxy starts without a token, and recovers by itself once there is one."""
    tokens = own_proxy.directory / "tokens"
    tokens.mkdir()
    write_configuration(own_proxy.directory / "softhsm2.conf", tokens)
    there, here = own_proxy.environment.directory / "softhsm2.conf", own_proxy.directory / "softhsm2.conf"
    proxy = own_proxy.start(server="workers = 1", edit=lambda text: text.replace(str(there), str(here)), serving=False)

    with XksClient(proxy.endpoint(), proxy.context()) as client:

        def status() -> str:
            answer = client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE)
            assert answer.status == 200
            return status_in(answer)

        assert status() == "UNAVAILABLE"
        shutil.copytree(own_proxy.environment.directory / "tokens", tokens, dirs_exist_ok=True)
        eventually(lambda: status() == "ACTIVE")


def test_the_smallest_request_of_the_specification_is_enough(proxy: Proxy, wire: Wire) -> None:
    assert json.loads(HEALTH_BODY)["requestMetadata"].keys() == {"kmsRequestId", "kmsOperation"}

    assert wire.ask(signed_post(proxy)).status == 200
