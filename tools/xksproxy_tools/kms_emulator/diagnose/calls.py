"""What a proxy answers: to a signed call, how fast, with what health, and for an external key."""

import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Final

from xksproxy.spec.messages import (
    CryptoRequestMetadata,
    EkmInstance,
    GetHealthStatusResponse,
    HealthRequestMetadata,
    KeyRequestMetadata,
)
from xksproxy_tools.kms_emulator.diagnose.advice import advice_on
from xksproxy_tools.kms_emulator.diagnose.findings import Result, Step, failed_connection, good, refused
from xksproxy_tools.kms_emulator.proxy import verdicts
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

_CALLS: Final = 5
_ACTIVE: Final = "ACTIVE"
_PLAINTEXT_BYTES: Final = 60
"""As much as KMS sends for a data key of 256 bits: 28 bytes more."""

_PRINCIPAL: Final = "arn:aws:iam::123456789012:user/xksproxy-diagnose"
_UNAUTHENTICATED: Final = frozenset({Outcome.AUTHENTICATION_FAILED, Outcome.INVALID_URI_PATH, Outcome.MALFORMED})
"""Answers that a proxy may give before, or without, having found the signature to be good."""


class Calls:
    """Calls of KMS to one proxy.

    ``client`` has the time limit of KMS, ``patient`` one that tells how long an answer takes which comes too late.
    """

    def __init__(
        self, address: ProxyAddress, region: str, client: ProxyClient, patient: ProxyClient, time_limit: float
    ) -> None:
        self._address = address
        self._region = region
        self._client = client
        self._patient = patient
        self._time_limit = time_limit

    async def examine(self) -> AsyncIterator[Step]:
        """Signature, health, latency and instances, as far as there are answers."""
        try:
            health = await self._health(self._client)
        except ProxyFailure as failure:
            async for step in self._failed(failure):
                yield step
            return
        yield good("signature", "accepted")
        yield good("health", _described(health))
        yield await self._examine_latency()
        yield _instances_step(health.ekm_fleet_details)

    async def examine_key(self, key_id: str) -> AsyncIterator[Step]:
        """What CreateKey, Encrypt and Decrypt would make of an external key; it encrypts random bytes once."""
        metadata = KeyRequestMetadata(
            aws_principal_arn=_PRINCIPAL, kms_operation="CreateKey", kms_request_id=str(uuid.uuid4())
        )
        try:
            key = await self._client.key_metadata(self._address, key_id, metadata)
        except ProxyFailure as failure:
            error = verdicts.create_key_error(failure.outcome)
            yield refused("key", failure.detail, advice_on(failure), "CreateKey", error)
            return
        seen = f"{key_id}: {key.key_spec}, {key.key_status}, {', '.join(key.key_usage) or 'no usage'}"
        if (refusal := verdicts.key_refusal(key_id, key)) is not None:
            yield refused("key", seen, "use an enabled AES-256 key that encrypts and decrypts", "CreateKey", refusal)
            return
        yield good("key", seen)
        yield await self._examine_cryptography(key_id)

    async def _examine_cryptography(self, key_id: str) -> Step:
        plaintext, aad = os.urandom(_PLAINTEXT_BYTES), b"xksproxy diagnose"
        try:
            sealed = await self._client.encrypt(self._address, key_id, self._metadata("Encrypt"), plaintext, aad)
            opened = await self._client.decrypt(self._address, key_id, self._metadata("Decrypt"), sealed, aad)
        except ProxyFailure as failure:
            return _refused_cryptography(failure)
        if opened != plaintext:
            different = "it decrypts to something else than was encrypted"
            return _refused_cryptography(ProxyFailure(Outcome.MATERIAL_REJECTED, different))
        return good("cryptography", "encrypts with the right integrity value, and decrypts to the same")

    async def _failed(self, failure: ProxyFailure) -> AsyncIterator[Step]:
        if failure.outcome is Outcome.AUTHENTICATION_FAILED:
            yield failed_connection("signature", failure, advice_on(failure))
        elif failure.outcome is Outcome.ALL_UNAVAILABLE:
            yield good("signature", "accepted")
            yield failed_connection("instances", failure, advice_on(failure))
        else:
            if failure.outcome.value.endswith("Exception") and failure.outcome not in _UNAUTHENTICATED:
                yield good("signature", "accepted")
            yield failed_connection("health", failure, advice_on(failure))
        if failure.outcome is Outcome.TIMED_OUT:
            yield await self._late_answer()

    async def _late_answer(self) -> Step:
        """How long it does take, for whoever has to find out where the time goes."""
        try:
            milliseconds = await _timed(lambda: self._health(self._patient))
        except ProxyFailure as failure:
            return Step("latency", Result.WARNING, f"no good answer later either: {failure.detail}")
        return Step("latency", Result.WARNING, f"answered after {milliseconds:.0f} ms, given the time")

    async def _examine_latency(self) -> Step:
        limit = 1000 * self._time_limit
        try:
            first = await _timed(lambda: self._health(self._patient))
            others = [await _timed(lambda: self._health(self._patient)) for _ in range(_CALLS)]
        except ProxyFailure as failure:
            return Step("latency", Result.WARNING, f"not every call is answered: {failure.detail}", advice_on(failure))
        slowest = max(first, *others)
        seen = (
            f"{first:.1f} ms with a new connection; then {median(others):.1f} ms in the median of {_CALLS},"
            f" {max(others):.1f} ms at most; KMS waits {limit:.0f} ms"
        )
        if slowest > limit / 2:
            return Step("latency", Result.WARNING, seen, "from a Region further away, calls would run out of time")
        return good("latency", seen)

    async def _health(self, client: ProxyClient) -> GetHealthStatusResponse:
        metadata = HealthRequestMetadata(kms_request_id=str(uuid.uuid4()), kms_operation="ConnectCustomKeyStore")
        return await client.health(self._address, metadata)

    def _metadata(self, kms_operation: str) -> CryptoRequestMetadata:
        return CryptoRequestMetadata(
            aws_principal_arn=_PRINCIPAL,
            kms_key_arn=f"arn:aws:kms:{self._region}:123456789012:key/00000000-0000-0000-0000-000000000000",
            kms_operation=kms_operation,
            kms_request_id=str(uuid.uuid4()),
        )


def _refused_cryptography(failure: ProxyFailure) -> Step:
    error = verdicts.cryptographic_error(failure.outcome)
    return refused("cryptography", failure.detail, advice_on(failure), "Encrypt, Decrypt", error)


def _instances_step(instances: list[EkmInstance]) -> Step:
    seen = "; ".join(f"{instance.id} ({instance.model}) {instance.health_status}" for instance in instances)
    if all(instance.health_status == _ACTIVE for instance in instances):
        return good("instances", seen)
    return Step("instances", Result.WARNING, seen, "one that serves is enough for KMS; look after the others")


def _described(health: GetHealthStatusResponse) -> str:
    fleet = f"{health.xks_proxy_model} of {health.xks_proxy_vendor}, fleet size {health.xks_proxy_fleet_size}"
    return f"{fleet}; key manager of {health.ekm_vendor}"


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds until the answer."""
    started = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - started)
