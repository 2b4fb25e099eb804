"""All steps of a diagnosis, in the order in which KMS makes them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from xksproxy.client.target import Target
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.uri import BASE_PATH
from xksproxy_tools.kms_emulator.diagnose.calls import Calls
from xksproxy_tools.kms_emulator.diagnose.diagnosis import Diagnosis, Result, Step
from xksproxy_tools.kms_emulator.diagnose.format_checks import check_format
from xksproxy_tools.kms_emulator.diagnose.network import Network
from xksproxy_tools.kms_emulator.proxy.address import HTTPS_PORT, ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.connection import Peer

_PATIENT_SECONDS: Final = 2.0


async def diagnose(
    target: Target, rules: Mapping[Peer, Peer], *, key_id: str | None = None, time_limit: float = KMS_TIMEOUT_MS / 1000
) -> Diagnosis:
    """Make every step that is possible. KMS stops at a wrong form; here the other steps are made too.

    Args:
        target: the key store. A port other than 443 is reported, and used.
        rules: other addresses for hosts and ports.
        key_id: an external key to check too.
        time_limit: seconds for one attempt of a call.

    Raises:
        TargetError: a PEM file cannot be used.
    """
    return Diagnosis(tuple([step async for step in _steps(target, rules, key_id, time_limit)]))


async def _steps(
    target: Target, rules: Mapping[Peer, Peer], key_id: str | None, time_limit: float
) -> AsyncIterator[Step]:
    address = ProxyAddress(f"https://{target.host}", target.path_prefix + BASE_PATH, target.credential)
    if target.port != HTTPS_PORT:
        rules = {(target.host.lower(), HTTPS_PORT): (target.host, target.port), **rules}
    for step in check_format(target, address, key_id or ""):
        yield step
    async for step in Network(target, rules, time_limit).check():
        yield step
        if step.result is Result.WRONG:
            return
    async with AsyncExitStack() as stack:
        client, patient = [
            await stack.enter_async_context(_client(target, rules, seconds))
            for seconds in (time_limit, max(time_limit, _PATIENT_SECONDS))
        ]
        calls = Calls(address, target.region, client, patient, time_limit)
        async for step in calls.check():
            yield step
            if step.result is Result.WRONG:
                key_id = None
        if key_id is not None:
            async for step in calls.check_key(key_id):
                yield step


def _client(target: Target, rules: Mapping[Peer, Peer], time_limit: float) -> ProxyClient:
    return ProxyClient(
        target.region,
        resolve=rules,
        ca=target.ca,
        client_certificate=target.client_certificate,
        client_key=target.client_key,
        time_limit=time_limit,
    )
