"""The emulator without HTTP: its operations with a fake proxy, a fake cluster and a fake clock."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID
from xksproxy_tools.kms_emulator.assembly import Emulator, assemble
from xksproxy_tools.kms_emulator.cloudhsm import ClusterFailure, ClusterOutcome
from xksproxy_tools.kms_emulator.durations import NO_DURATIONS, Durations
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.names import Region
from xksproxy_tools.kms_emulator.protocol.caller import Caller
from xksproxy_tools.kms_emulator.protocol.model import KmsModel
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.proxy.responses import Sealed
from xksproxy_tools.kms_emulator.quotas import StoreQuotas
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.vpc_services import VpcServices

from xksproxy.spec.messages import GetHealthStatusResponse, GetKeyMetadataResponse


def trust_anchor() -> str:
    """A certificate in PEM; only its form is checked."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "customerCA")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM).decode()


REGION = "eu-west-1"
ACCOUNT = "111122223333"
ALICE = Caller(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/Alice")
CLUSTER_ID = "cluster-2a3b4c5d6e7"
CREDENTIAL = {"AccessKeyId": "ABCDEFGHIJKLMNOPQRST", "RawSecretAccessKey": "s" * 43}
PUBLIC = {
    "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
    "XksProxyConnectivity": "PUBLIC_ENDPOINT",
    "XksProxyUriEndpoint": "https://xks.example.com",
    "XksProxyUriPath": "/example/kms/xks/v1",
    "XksProxyAuthenticationCredential": CREDENTIAL,
}
SERVICE = f"com.amazonaws.vpce.{REGION}.vpce-svc-0123456789abcdef0"
VPC = {
    **PUBLIC,
    "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
    "XksProxyUriEndpoint": "https://vpc.example.com",
    "XksProxyVpcEndpointServiceName": SERVICE,
}

CLUSTER = {
    "CustomKeyStoreType": "AWS_CLOUDHSM",
    "CloudHsmClusterId": CLUSTER_ID,
    "TrustAnchorCertificate": trust_anchor(),
    "KeyStorePassword": "kmspassword",
}
KMS_MODEL = KmsModel.load()
_SERVICE = ServiceModel(Loader().load_service_model("kms", "service-2"), "kms")


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Encryption:
    """AES-GCM under a key for each id, in place of an HSM."""

    def __init__(self) -> None:
        self.keys: dict[str, AESGCM] = {}

    def create_key(self, key_id: str) -> None:
        self.keys[key_id] = AESGCM(AESGCM.generate_key(256))

    def seal(self, key_id: str, plaintext: bytes, aad: bytes, metadata: bytes | None) -> Sealed:
        iv = uuid.uuid4().bytes[:12]
        output = self.keys[key_id].encrypt(iv, plaintext, aad)
        return Sealed(output[:-16], metadata, iv, output[-16:])

    def open(self, key_id: str, sealed: Sealed, aad: bytes) -> bytes:
        return self.keys[key_id].decrypt(sealed.iv, sealed.ciphertext + sealed.tag, aad)


class FakeProxy:
    """In place of ProxyClient: has every external key, fails as the test says, and records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        self.failure: Outcome | None = None
        self.key = GetKeyMetadataResponse(key_spec="AES_256", key_usage=["DECRYPT", "ENCRYPT"], key_status="ENABLED")
        self._encryption = Encryption()

    def _record(self, api: str, address: Any, metadata: Any, key_id: str = "") -> None:
        self.calls.append((api, address, metadata))
        if self.failure is not None:
            raise ProxyFailure(self.failure, "as the test told it")
        if key_id not in self._encryption.keys:
            self._encryption.create_key(key_id)

    async def health(self, address: Any, metadata: Any) -> GetHealthStatusResponse:
        self._record("health", address, metadata)
        return GetHealthStatusResponse(
            xks_proxy_fleet_size=1, xks_proxy_vendor="v", xks_proxy_model="m", ekm_vendor="e", ekm_fleet_details=[]
        )

    async def key_metadata(self, address: Any, key_id: str, metadata: Any) -> GetKeyMetadataResponse:
        self._record("metadata", address, metadata)
        return self.key

    async def encrypt(self, address: Any, key_id: str, metadata: Any, plaintext: bytes, aad: bytes) -> Sealed:
        self._record("encrypt", address, metadata, key_id)
        return self._encryption.seal(key_id, plaintext, aad, b"v1")

    async def decrypt(self, address: Any, key_id: str, metadata: Any, sealed: Sealed, aad: bytes) -> bytes:
        self._record("decrypt", address, metadata, key_id)
        try:
            return self._encryption.open(key_id, sealed, aad)
        except InvalidTag:
            raise ProxyFailure(Outcome.INVALID_CIPHERTEXT, "the tag does not fit") from None


class FakeCluster:
    """In place of a CloudHsmCluster whose kmsuser has the password ``kmspassword``."""

    def __init__(self) -> None:
        self.connected = False
        self.failure: ClusterOutcome | None = None
        self._encryption = Encryption()

    @property
    def keys(self) -> dict[str, AESGCM]:
        return self._encryption.keys

    async def connect(self, password: str) -> None:
        if self.failure is None and password != "kmspassword":
            raise ClusterFailure(ClusterOutcome.WRONG_PASSWORD, "as the test told it")
        self._fail_as_told()
        self.connected = True

    async def disconnect(self) -> None:
        self.connected = False
        self._fail_as_told()

    async def create_key(self, label: str) -> None:
        self._fail_as_told()
        self._encryption.create_key(label)

    async def delete_key(self, label: str) -> None:
        self._fail_as_told()
        del self.keys[label]

    async def encrypt(self, label: str, plaintext: bytes, aad: bytes) -> Sealed:
        self._fail_as_told()
        return self._encryption.seal(label, plaintext, aad, None)

    async def decrypt(self, label: str, sealed: Sealed, aad: bytes) -> bytes:
        self._fail_as_told()
        try:
            return self._encryption.open(label, sealed, aad)
        except InvalidTag:
            raise ClusterFailure(ClusterOutcome.CIPHERTEXT_REJECTED, "the tag does not fit") from None

    def _fail_as_told(self) -> None:
        if self.failure is not None:
            raise ClusterFailure(self.failure, "as the test told it")


class Gate:
    """In place of the minutes of a transition: they pass immediately, unless the test holds them."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waits: list[float] = []
        self.waiting = 0

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


class Harness:
    """An emulator with a state file. botocore writes its requests and reads its answers."""

    def __init__(
        self,
        path: Path,
        *,
        durations: Durations = NO_DURATIONS,
        clock: Clock | None = None,
        requests_per_second: int = 1800,
        services: Iterable[str] = (),
    ) -> None:
        self.clock = clock or Clock()
        self.proxy = FakeProxy()
        self.clusters = {CLUSTER_ID: FakeCluster()}
        self.gate = Gate()
        self.database = Database.open(path, REGION)
        self.emulator: Emulator = assemble(
            self.database,
            self.proxy,
            self.clusters,
            VpcServices(Region(REGION), frozenset(services)),
            durations=durations,
            quotas=StoreQuotas(self.clock, requests_per_second),
            clock=self.clock,
            wait=self.gate,
        )

    @property
    def cluster(self) -> FakeCluster:
        return self.clusters[CLUSTER_ID]

    async def close(self) -> None:
        await self.emulator.connections.close()
        self.database.close()

    async def call(self, operation: str, caller: Caller = ALICE, **parameters: Any) -> dict[str, Any]:
        """One operation; the answer as boto3 would return it. A refusal is raised as KmsError."""
        model = _SERVICE.operation_model(operation)
        body = create_serializer("json", include_validation=False).serialize_to_request(parameters, model)["body"]
        request = KmsRequest(str(uuid.uuid4()), operation, caller, KMS_MODEL.parse(operation, body))
        await self.emulator.expiry.delete_due_keys()
        answer = KMS_MODEL.render(operation, await self.emulator.operations.execute(request))
        if model.output_shape is None:
            assert answer == b""
            return {}
        json.loads(answer)
        response = {"body": answer, "headers": {}, "status_code": 200}
        parsed: dict[str, Any] = create_parser("json").parse(response, model.output_shape)
        del parsed["ResponseMetadata"]
        return parsed

    async def error_of(self, operation: str, **parameters: Any) -> str:
        """The name of the exception of an operation; empty if it succeeds."""
        try:
            await self.call(operation, **parameters)
        except KmsError as error:
            return error.name
        return ""

    async def create_store(self, name: str = "store", **settings: Any) -> str:
        answer = await self.call("CreateCustomKeyStore", CustomKeyStoreName=name, **(settings or PUBLIC))
        return str(answer["CustomKeyStoreId"])

    async def connected_store(self, name: str = "store", **settings: Any) -> str:
        store_id = await self.create_store(name, **settings)
        await self.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
        await self.settle()
        assert await self.state(store_id) == "CONNECTED"
        return store_id

    async def connected_cluster_store(self) -> str:
        return await self.connected_store("cluster", **CLUSTER)

    async def create_key(self, store_id: str | None = None, xks_key_id: str = "external-key", **more: Any) -> str:
        """The id of a new key in an external key store, or in KMS if there is none."""
        if store_id is not None:
            more |= {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": xks_key_id}
        return str((await self.call("CreateKey", **more))["KeyMetadata"]["KeyId"])

    async def state(self, store_id: str) -> str:
        return str((await self.entry(store_id))["ConnectionState"])

    async def entry(self, store_id: str) -> dict[str, Any]:
        (entry,) = (await self.call("DescribeCustomKeyStores", CustomKeyStoreId=store_id))["CustomKeyStores"]
        return dict(entry)

    async def key_state(self, key_id: str) -> str:
        return str((await self.call("DescribeKey", KeyId=key_id))["KeyMetadata"]["KeyState"])

    async def settle(self) -> None:
        """Let transitions continue until they wait for the gate or end."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def bring(self, store_id: str, state: str) -> None:
        """Bring a CONNECTED key store to a state."""
        if state == "CONNECTED":
            return
        if state == "DISCONNECTING":
            self.gate.hold()
        await self.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
        await self.settle()
        if state == "CONNECTING":
            self.gate.hold()
        if state == "FAILED":
            self.proxy.failure = Outcome.NO_TCP
        if state in {"CONNECTING", "FAILED"}:
            await self.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
            await self.settle()
            self.proxy.failure = None
        assert await self.state(store_id) == state


@asynccontextmanager
async def refused(name: str) -> AsyncIterator[KmsError]:
    """The block is refused with an exception of this name; with an empty name, it is not refused."""
    caught = KmsError("", "")
    try:
        yield caught
    except KmsError as error:
        caught.name, caught.message = error.name, error.message
    assert caught.name == name, caught.message
