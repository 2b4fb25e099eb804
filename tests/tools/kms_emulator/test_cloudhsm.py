"""CloudHSM clusters that are tokens: what KMS does with them, and each way in which they fail it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from fault_support import FaultyHsm, is_quiet, until
from xksproxy_tools.kms_emulator.cloudhsm import (
    CloudHsmCluster,
    CloudHsmClusters,
    ClusterFailure,
    ClusterOutcome,
    connection_error_code,
    create_key_error,
    cryptographic_error,
    parse_cluster,
)
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin

CLUSTER = "cluster-1a23b4cdefg"
PATIENT_SECONDS = 60.0


@pytest.fixture
def faulty(make_faulty: Callable[..., FaultyHsm]) -> FaultyHsm:
    """A token of the test's own, on which nobody looks while a test makes keys: SoftHSM2 may fail that."""
    return make_faulty(pin=None, check_interval_s=600)


@pytest.fixture
def password(hsm: Hsm) -> str:
    """What kmsuser logs in with."""
    pin = read_pin(hsm)
    assert pin is not None
    return pin.reveal()


@pytest.fixture
async def cluster(faulty: FaultyHsm, tmp_path: Path) -> AsyncIterator[CloudHsmCluster]:
    """A cluster that nobody is logged in to."""
    clusters = CloudHsmClusters({CLUSTER: faulty.hsm}, tmp_path, time_limit=PATIENT_SECONDS)
    cluster = clusters.get(CLUSTER)
    assert cluster is not None
    yield cluster
    faulty.tell()
    await clusters.close()


@pytest.fixture
async def connected(cluster: CloudHsmCluster, password: str) -> CloudHsmCluster:
    """A cluster that is in use."""
    await connect(cluster, password)
    return cluster


async def connect(cluster: CloudHsmCluster, password: str) -> None:
    """Connect, and wait until the cluster's first check is over."""
    await cluster.connect(password)
    instance = cluster._instance
    assert instance is not None
    await until(lambda: is_quiet(instance))


async def outcome_of(call: object) -> ClusterOutcome:
    with pytest.raises(ClusterFailure) as raised:
        await call  # type: ignore[misc]  # a coroutine of any result
    return raised.value.outcome


# --- Keys and cryptography


async def test_a_key_is_made_used_and_deleted_in_the_token(connected: CloudHsmCluster) -> None:
    await connected.create_key("kms-key")
    assert await outcome_of(connected.create_key("kms-key")) is ClusterOutcome.FAILED

    sealed = await connected.encrypt("kms-key", b"data key", b"aad")

    assert await connected.decrypt("kms-key", sealed, b"aad") == b"data key"
    assert sealed.ciphertext != b"data key"
    assert sealed.ciphertext_metadata is None
    await connected.delete_key("kms-key")
    for call in (
        connected.encrypt("kms-key", b"data key", b"aad"),
        connected.decrypt("kms-key", sealed, b"aad"),
        connected.delete_key("kms-key"),
    ):
        assert await outcome_of(call) is ClusterOutcome.KEY_MISSING


async def test_the_key_never_leaves_the_token(connected: CloudHsmCluster) -> None:
    await connected.create_key("kms-key")

    description = await connected._call(lambda session: session.describe_key("kms-key"))

    assert (description.spec, description.sensitive, description.extractable) == ("AES_256", True, False)


async def test_another_context_key_or_tag_is_rejected(connected: CloudHsmCluster) -> None:
    await connected.create_key("kms-key")
    await connected.create_key("other-key")
    sealed = await connected.encrypt("kms-key", b"data key", b"aad")
    broken = Sealed(sealed.ciphertext, None, sealed.iv, bytes(16))

    for call in (
        connected.decrypt("kms-key", sealed, b"another context"),
        connected.decrypt("other-key", sealed, b"aad"),
        connected.decrypt("kms-key", broken, b"aad"),
    ):
        assert await outcome_of(call) is ClusterOutcome.CIPHERTEXT_REJECTED


# --- Connecting


async def test_a_cluster_can_be_used_only_while_it_is_connected(cluster: CloudHsmCluster, password: str) -> None:
    assert await outcome_of(cluster.create_key("kms-key")) is ClusterOutcome.NO_ACTIVE_HSM
    await connect(cluster, password)
    await cluster.create_key("kms-key")

    await cluster.disconnect()

    assert await outcome_of(cluster.encrypt("kms-key", b"", b"")) is ClusterOutcome.NO_ACTIVE_HSM


async def test_a_wrong_password_is_refused_each_time(cluster: CloudHsmCluster, password: str) -> None:
    """Also where the process was logged in before: then PKCS#11 asks for no PIN, unless it has logged out."""
    for _ in range(2):
        assert await outcome_of(cluster.connect("not the password")) is ClusterOutcome.WRONG_PASSWORD
        await cluster.connect(password)
        await cluster.disconnect()


async def test_disconnecting_waits_for_sessions_that_are_slow_to_open(
    cluster: CloudHsmCluster, faulty: FaultyHsm, password: str
) -> None:
    """It would find the log-in gone and renew it, and then any password would do."""
    faulty.tell("C_OpenSession delay 100")
    await cluster.connect(password)
    instance = cluster._instance
    assert instance is not None
    workers = tuple(instance._pool._free.values())

    await cluster.disconnect()

    assert [worker for worker in workers if worker._thread.is_alive()] == []
    assert await outcome_of(cluster.connect("not the password")) is ClusterOutcome.WRONG_PASSWORD


async def test_a_connected_cluster_may_be_connected_again_with_another_password(
    connected: CloudHsmCluster, password: str
) -> None:
    assert await outcome_of(connected.connect("not the password")) is ClusterOutcome.WRONG_PASSWORD
    assert await outcome_of(connected.create_key("kms-key")) is ClusterOutcome.NO_ACTIVE_HSM

    await connect(connected, password)

    await connected.create_key("kms-key")


async def test_the_kmsuser_of_a_real_cluster_is_named_with_the_password(
    faulty: FaultyHsm, tmp_path: Path, password: str
) -> None:
    """CloudHSM's module takes USER:PASSWORD as PIN; SoftHSM2 does not know that, and so refuses it."""
    clusters = CloudHsmClusters({CLUSTER: msgspec.structs.replace(faulty.hsm, preset="cloudhsm")}, tmp_path)
    cluster = clusters.get(CLUSTER)
    assert cluster is not None

    assert await outcome_of(cluster.connect(password)) is ClusterOutcome.WRONG_PASSWORD


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ("C_Login return 0xA4", ClusterOutcome.USER_LOCKED_OUT),
        ("C_Login return 0x102", ClusterOutcome.USER_MISSING),
        ("C_Login return 0x30", ClusterOutcome.NO_ACTIVE_HSM),
        ("C_OpenSession return 0x30", ClusterOutcome.NO_ACTIVE_HSM),
        ("C_Encrypt return 0x30", ClusterOutcome.NO_ACTIVE_HSM),
        ("absent", ClusterOutcome.NO_ACTIVE_HSM),
    ],
)
async def test_each_failure_to_connect_has_its_outcome(
    cluster: CloudHsmCluster, faulty: FaultyHsm, password: str, rule: str, outcome: ClusterOutcome
) -> None:
    faulty.tell(rule)

    assert await outcome_of(cluster.connect(password)) is outcome

    faulty.tell()
    await cluster.connect(password)


async def test_a_missing_token_or_module_is_a_cluster_without_an_active_hsm(
    faulty: FaultyHsm, tmp_path: Path, password: str
) -> None:
    for change in ({"token": "no such token"}, {"module": str(tmp_path / "no-such-module.so")}):
        hsm = msgspec.structs.replace(faulty.hsm, **change)
        cluster = CloudHsmClusters({CLUSTER: hsm}, tmp_path).get(CLUSTER)
        assert cluster is not None
        assert await outcome_of(cluster.connect(password)) is ClusterOutcome.NO_ACTIVE_HSM


# --- While connected


async def test_a_cluster_is_used_again_when_its_hsm_recovers(connected: CloudHsmCluster, faulty: FaultyHsm) -> None:
    await connected.create_key("kms-key")
    sealed = await connected.encrypt("kms-key", b"data key", b"aad")

    faulty.tell("* return 0x30")
    for _ in range(4):
        assert await outcome_of(connected.encrypt("kms-key", b"", b"")) is ClusterOutcome.NO_ACTIVE_HSM
    faulty.tell()

    async def works() -> bool:
        try:
            return await connected.decrypt("kms-key", sealed, b"aad") == b"data key"
        except ClusterFailure:
            return False

    while not await works():  # noqa: ASYNC110 - what is waited for knows no event
        await asyncio.sleep(0.01)


async def test_connecting_to_a_module_that_hangs_fails_in_time(
    faulty: FaultyHsm, tmp_path: Path, password: str
) -> None:
    cluster = CloudHsmClusters({CLUSTER: faulty.hsm}, tmp_path, time_limit=0.3).get(CLUSTER)
    assert cluster is not None
    faulty.tell("C_Login hang")

    assert await outcome_of(cluster.connect(password)) in (ClusterOutcome.NO_ACTIVE_HSM, ClusterOutcome.BUSY)


# --- The command line, and the errors of KMS


def test_a_cluster_is_named_on_the_command_line() -> None:
    cluster_id, hsm = parse_cluster(f"{CLUSTER}=/usr/lib/softhsm/libsofthsm2.so:kms")

    assert cluster_id == CLUSTER
    assert (hsm.module, hsm.token, hsm.preset) == ("/usr/lib/softhsm/libsofthsm2.so", "kms", "softhsm2")
    assert parse_cluster(f"{CLUSTER}=m.so:kms:cloudhsm")[1].preset == "cloudhsm"


@pytest.mark.parametrize(
    "text",
    ["", CLUSTER, "=m.so:kms", *(f"{CLUSTER}={rest}" for rest in ("", "m.so", "m.so:", ":kms", f"m.so:{'x' * 33}"))],
)
def test_an_invalid_cluster_option_is_refused_with_the_expected_form(text: str) -> None:
    with pytest.raises(ValueError, match="expected ID=MODULE:TOKEN"):
        parse_cluster(text)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of softhsm2, nss, cloudhsm"):
        parse_cluster(f"{CLUSTER}=m.so:kms:softhsm3")


_STATE = "CustomKeyStoreInvalidStateException"
_CLUSTER = "CloudHsmClusterInvalidConfigurationException"
_INVALID = "KMSInvalidStateException"

# Outcome: ConnectionErrorCode, exception of CreateKey, exception of the cryptographic operations.
_ANSWERS = {
    ClusterOutcome.WRONG_PASSWORD: ("INVALID_CREDENTIALS", _STATE, _INVALID),
    ClusterOutcome.USER_LOCKED_OUT: ("USER_LOCKED_OUT", _STATE, _INVALID),
    ClusterOutcome.USER_MISSING: ("USER_NOT_FOUND", _STATE, _INVALID),
    ClusterOutcome.NO_ACTIVE_HSM: ("INSUFFICIENT_CLOUDHSM_HSMS", _CLUSTER, _INVALID),
    ClusterOutcome.KEY_MISSING: ("INTERNAL_ERROR", "KMSInternalException", _INVALID),
    ClusterOutcome.CIPHERTEXT_REJECTED: ("INTERNAL_ERROR", "KMSInternalException", "InvalidCiphertextException"),
    ClusterOutcome.BUSY: ("NETWORK_ERRORS", "ThrottlingException", "ThrottlingException"),
    ClusterOutcome.FAILED: ("INTERNAL_ERROR", "KMSInternalException", _INVALID),
}


@pytest.mark.parametrize("outcome", ClusterOutcome)
def test_each_outcome_has_an_error_code_and_exceptions(outcome: ClusterOutcome) -> None:
    errors = (connection_error_code(outcome), create_key_error(outcome).name, cryptographic_error(outcome).name)

    assert errors == _ANSWERS[outcome]
