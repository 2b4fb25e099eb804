"""Emulators on an event loop of their own in this process, an account for each test, and what a proxy was asked."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import pytest
from botocore.exceptions import ClientError
from emulator_process import kms_client, wait_for_state
from server_support import Caller as ProxyCaller
from server_support import SealedMessage
from support import Proxy, eventually, lines_with
from xksproxy_tools.kms_emulator.blob import Blob as CiphertextBlob
from xksproxy_tools.kms_emulator.blob import Header, authenticated_data, pack, unpack
from xksproxy_tools.kms_emulator.protocol.caller import Caller
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

from xksproxy.sigv4.keyring import Credential

Result = TypeVar("Result")
Context = Mapping[str, str]

VPC_SERVICE = "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"
PLAINTEXT = b"Hello World!"
_ACCOUNTS = 500


class LoopThread:
    """An event loop in a thread, on which servers run while a test talks to them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextmanager
    def entered(self, context: AbstractAsyncContextManager[Result]) -> Iterator[Result]:
        """What an asynchronous context manager gives, until the end."""

        async def enter() -> Result:
            return await context.__aenter__()

        async def leave() -> None:
            await context.__aexit__(None, None, None)

        result = self.run(enter())
        try:
            yield result
        finally:
            self.run(leave())

    def close(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def account_callers() -> dict[str, Caller]:
    """Access key ids, each of a user in an account of its own."""
    accounts = {f"tester{number}": f"{number:012d}" for number in range(1, _ACCOUNTS)}
    return {name: Caller(account, f"arn:aws:iam::{account}:user/{name}") for name, account in accounts.items()}


@dataclass(frozen=True)
class Account:
    """An AWS account that no other test uses: its names and key stores are its own."""

    kms: Any
    id: str
    proxy: Proxy

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What CreateCustomKeyStore takes for the proxy of the tests."""
        return {
            "CustomKeyStoreName": "ExampleXks",
            "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
            "XksProxyConnectivity": "PUBLIC_ENDPOINT",
            "XksProxyUriEndpoint": "https://localhost",
            "XksProxyUriPath": "/dev/kms/xks/v1",
            "XksProxyAuthenticationCredential": for_kms(self.proxy.credential),
            **changes,
        }

    def vpc_settings(self, **changes: Any) -> dict[str, Any]:
        """The same behind a VPC endpoint service, where nothing is asked of the proxy before the store is connected."""
        vpc = {
            "CustomKeyStoreName": "ExampleXksVpc",
            "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
            "XksProxyVpcEndpointServiceName": VPC_SERVICE,
        }
        return self.settings(**{**vpc, **changes})

    def create_store(self, **settings: Any) -> str:
        return str(self.kms.create_custom_key_store(**(settings or self.settings()))["CustomKeyStoreId"])

    def connect(self, store_id: str, state: str = "CONNECTED") -> dict[str, Any]:
        self.kms.connect_custom_key_store(CustomKeyStoreId=store_id)
        return wait_for_state(self.kms, store_id, state)

    def disconnect(self, store_id: str) -> dict[str, Any]:
        self.kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
        return wait_for_state(self.kms, store_id, "DISCONNECTED")

    def connected_store(self, **settings: Any) -> str:
        store_id = self.create_store(**settings)
        self.connect(store_id)
        return store_id

    def create_key(self, store_id: str, xks_key_id: str = "demo-key", **more: Any) -> dict[str, Any]:
        """A key in an external key store; its KeyMetadata."""
        answer = self.kms.create_key(
            Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=xks_key_id, **more
        )
        return dict(answer["KeyMetadata"])

    def describe_store(self, store_id: str) -> dict[str, Any]:
        """The entry of a key store."""
        (entry,) = self.kms.describe_custom_key_stores(CustomKeyStoreId=store_id)["CustomKeyStores"]
        return dict(entry)

    def key_state(self, key_id: str) -> str:
        return str(self.kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"])


@dataclass
class Accounts:
    """Hands out accounts of an emulator."""

    url: str
    proxy: Proxy
    _numbers: Iterator[int]

    @classmethod
    def of(cls, url: str, proxy: Proxy) -> "Accounts":
        return cls(url, proxy, count(1))

    def new(self) -> Account:
        number = next(self._numbers)
        return Account(kms_client(self.url, f"tester{number}"), f"{number:012d}", self.proxy)


def for_kms(credential: Credential) -> dict[str, str]:
    """A credential as XksProxyAuthenticationCredential."""
    return {"AccessKeyId": credential.access_key_id, "RawSecretAccessKey": credential.secret_access_key}


# --- The five cryptographic operations


def encrypt(kms: Any, key_id: str, _blob: bytes, context: Context) -> dict[str, Any]:
    return dict(kms.encrypt(KeyId=key_id, Plaintext=PLAINTEXT, EncryptionContext=context))


def decrypt(kms: Any, key_id: str, blob: bytes, context: Context) -> dict[str, Any]:
    return dict(kms.decrypt(KeyId=key_id, CiphertextBlob=blob, EncryptionContext=context))


def generate_data_key(kms: Any, key_id: str, _blob: bytes, context: Context) -> dict[str, Any]:
    return dict(kms.generate_data_key(KeyId=key_id, KeySpec="AES_256", EncryptionContext=context))


def generate_data_key_without_plaintext(kms: Any, key_id: str, _blob: bytes, context: Context) -> dict[str, Any]:
    return dict(kms.generate_data_key_without_plaintext(KeyId=key_id, KeySpec="AES_256", EncryptionContext=context))


def re_encrypt(kms: Any, key_id: str, blob: bytes, context: Context) -> dict[str, Any]:
    return dict(
        kms.re_encrypt(
            CiphertextBlob=blob,
            SourceKeyId=key_id,
            DestinationKeyId=key_id,
            SourceEncryptionContext=context,
            DestinationEncryptionContext=context,
        )
    )


FIVE_OPERATIONS: tuple[Callable[..., dict[str, Any]], ...] = (
    encrypt,
    decrypt,
    generate_data_key,
    generate_data_key_without_plaintext,
    re_encrypt,
)


def is_refused(name: str, call: Callable[..., Any], *arguments: Any, **parameters: Any) -> ClientError:
    """The error of a call that is refused with this exception."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **parameters)
    assert caught.value.response["Error"]["Code"] == name, caught.value
    return caught.value


def all_refused(name: str, kms: Any, key_id: str, blob: bytes) -> None:
    """Each of the five operations is refused with this exception."""
    for operation in FIVE_OPERATIONS:
        is_refused(name, operation, kms, key_id, blob, {})


def all_work(kms: Any, key_id: str, blob: bytes) -> None:
    for operation in FIVE_OPERATIONS:
        assert operation(kms, key_id, blob, {})["ResponseMetadata"]["HTTPStatusCode"] == 200


def share_quota_of_one_a_second(kms: Any, first: str, second: str) -> None:
    """The second key finds used up by the first what the two may use in a second; on a slow machine, in the end."""

    def outcome(key_id: str) -> str:
        with pytest.raises(ClientError) as caught:
            kms.encrypt(KeyId=key_id, Plaintext=PLAINTEXT, DryRun=True)
        return str(caught.value.response["Error"]["Code"])

    while True:
        assert outcome(first) == "DryRunOperationException"
        if (code := outcome(second)) == "ThrottlingException":
            return
        assert code == "DryRunOperationException"
        time.sleep(2)  # until both may be used again


def soon(call: Callable[[], Any], *, refused: str | None = None, saying: str = "") -> None:
    """Repeat a call until it works, or until it is refused with this exception and words.

    What changes at a proxy reaches its workers one by one, within seconds.
    """

    def as_wanted() -> bool:
        try:
            call()
        except ClientError as error:
            return error.response["Error"]["Code"] == refused and saying in str(error)
        return refused is None

    eventually(as_wanted)


# --- The layers of a ciphertext


def open_outer_layer(proxy: ProxyCaller, external_key_id: str, blob: bytes, context: Context) -> bytes:
    """What KMS had the proxy encrypt, as the proxy decrypts it."""
    unpacked = unpack(blob)
    sealed, aad = unpacked.sealed, authenticated_data(unpacked.header, context)
    return proxy.open(
        external_key_id, SealedMessage(sealed.iv, sealed.ciphertext, sealed.tag, aad, sealed.ciphertext_metadata)
    )


def make_outer_layer(proxy: ProxyCaller, external_key_id: str, header: Header, inner: bytes, context: Context) -> bytes:
    """A blob that holds ``inner``, well encrypted by the proxy."""
    sealed = proxy.seal(external_key_id, inner, authenticated_data(header, context))
    return pack(CiphertextBlob(header, Sealed(sealed.ciphertext, sealed.ctm, sealed.iv, sealed.tag)))


# --- What the proxy was asked


def request_id(answer: Mapping[str, Any]) -> str:
    return str(answer["ResponseMetadata"]["RequestId"])


def calls_of(proxy: Proxy, kms_request_id: str, number: int = 1) -> list[str]:
    """What the proxy's log has about a request of KMS, which called it so many times."""
    eventually(lambda: len(lines_with(proxy.log, kms_request_id)) >= number)
    lines = lines_with(proxy.log, kms_request_id)
    assert len(lines) == number, lines
    return lines


def was_never_asked(proxy: Proxy, kms_request_ids: list[str]) -> None:
    assert [line for kms_request_id in kms_request_ids for line in lines_with(proxy.log, kms_request_id)] == []


def logged(line: str, name: str) -> str | None:
    """A field of a line of the proxy's log, or of the request metadata in it."""
    match = re.search(rf'\b{name}(?:=|":)"([^"]*)"', line)
    return match[1] if match else None
