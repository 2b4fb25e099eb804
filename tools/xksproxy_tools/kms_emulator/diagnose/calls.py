"""Checks with signed calls: signature, health, latency, instances, and an external key."""

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
from xksproxy_tools.kms_emulator.diagnose.diagnosis import Result, Step, failed_connection, good, refused
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

_CALLS: Final = 5
_ACTIVE: Final = "ACTIVE"
_PLAINTEXT_BYTES: Final = 60
"""The size that KMS sends for a data key of 256 bits: 32 bytes and 28 more."""

_PRINCIPAL: Final = "arn:aws:iam::123456789012:user/xksproxy-diagnose"
_UNAUTHENTICATED: Final = frozenset({Outcome.AUTHENTICATION_FAILED, Outcome.INVALID_URI_PATH, Outcome.MALFORMED})
"""Errors that a proxy may return although it did not accept the signature."""


class Calls:
    """Calls of KMS to one proxy.

    ``client`` has the time limit of KMS. ``patient`` has a longer one, to measure responses that are too late.
    """

    def __init__(
        self, address: ProxyAddress, region: str, client: ProxyClient, patient: ProxyClient, time_limit: float
    ) -> None:
        self._address = address
        self._region = region
        self._client = client
        self._patient = patient
        self._time_limit = time_limit

    async def check(self) -> AsyncIterator[Step]:
        """Check signature, health, latency and instances."""
        try:
            health = await self._health(self._client)
        except ProxyFailure as failure:
            async for step in self._failed(failure):
                yield step
            return
        yield good("signature", "accepted")
        yield good("health", _described(health))
        yield await self._check_latency()
        yield _instances_step(health.ekm_fleet_details)

    async def check_key(self, key_id: str) -> AsyncIterator[Step]:
        """Check an external key as CreateKey, Encrypt and Decrypt would use it. It encrypts random bytes once."""
        metadata = KeyRequestMetadata(
            aws_principal_arn=_PRINCIPAL, kms_operation="CreateKey", kms_request_id=str(uuid.uuid4())
        )
        try:
            key = await self._client.key_metadata(self._address, key_id, metadata)
        except ProxyFailure as failure:
            error = kms_errors.create_key_error(failure.outcome)
            yield refused("key", failure.detail, advice_on(failure), "CreateKey", error)
            return
        seen = f"{key_id}: {key.key_spec}, {key.key_status}, {', '.join(key.key_usage) or 'no usage'}"
        if (refusal := kms_errors.key_refusal(key_id, key)) is not None:
            yield refused("key", seen, "use an enabled AES-256 key that encrypts and decrypts", "CreateKey", refusal)
            return
        yield good("key", seen)
        yield await self._check_cryptography(key_id)

    async def _check_cryptography(self, key_id: str) -> Step:
        plaintext, aad = os.urandom(_PLAINTEXT_BYTES), b"xksproxy diagnose"
        try:
            sealed = await self._client.encrypt(self._address, key_id, self._metadata("Encrypt"), plaintext, aad)
            opened = await self._client.decrypt(self._address, key_id, self._metadata("Decrypt"), sealed, aad)
        except ProxyFailure as failure:
            return _refused_cryptography(failure)
        if opened != plaintext:
            different = "it decrypts to another plaintext than was encrypted"
            return _refused_cryptography(ProxyFailure(Outcome.MATERIAL_REJECTED, different))
        return good("cryptography", "encrypts with the correct integrity value, and decrypts to the same plaintext")

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
        """Measure how long a response takes that was too late."""
        try:
            milliseconds = await _timed(lambda: self._health(self._patient))
        except ProxyFailure as failure:
            return Step(
                "latency", Result.WARNING, f"no valid response with a longer time limit either: {failure.detail}"
            )
        return Step("latency", Result.WARNING, f"answered after {milliseconds:.0f} ms with a longer time limit")

    async def _check_latency(self) -> Step:
        limit = 1000 * self._time_limit
        try:
            first = await _timed(lambda: self._health(self._patient))
            others = [await _timed(lambda: self._health(self._patient)) for _ in range(_CALLS)]
        except ProxyFailure as failure:
            return Step("latency", Result.WARNING, f"not all calls succeed: {failure.detail}", advice_on(failure))
        slowest = max(first, *others)
        seen = (
            f"{first:.1f} ms with a new connection; then {median(others):.1f} ms in the median of {_CALLS},"
            f" {max(others):.1f} ms at most; KMS waits {limit:.0f} ms"
        )
        if slowest > limit / 2:
            return Step("latency", Result.WARNING, seen, "calls from a more distant Region would exceed the limit")
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
    error = kms_errors.cryptographic_error(failure.outcome)
    return refused("cryptography", failure.detail, advice_on(failure), "Encrypt, Decrypt", error)


def _instances_step(instances: list[EkmInstance]) -> Step:
    seen = "; ".join(f"{instance.id} ({instance.model}) {instance.health_status}" for instance in instances)
    if all(instance.health_status == _ACTIVE for instance in instances):
        return good("instances", seen)
    return Step("instances", Result.WARNING, seen, "one available instance is enough for KMS; check the others")


def _described(health: GetHealthStatusResponse) -> str:
    fleet = f"{health.xks_proxy_model} of {health.xks_proxy_vendor}, fleet size {health.xks_proxy_fleet_size}"
    return f"{fleet}; key manager of {health.ekm_vendor}"


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    """The duration of a call in milliseconds."""
    started = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - started)
