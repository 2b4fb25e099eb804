"""The request quota of custom key stores."""

from pathlib import Path

from emulator_support import Clock, Harness, refused
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.quotas import StoreQuotas


def passed(quotas: StoreQuotas, store_id: str, tries: int) -> int:
    for number in range(tries):
        try:
            quotas.take(store_id)
        except KmsError:
            return number
    return tries


def test_a_second_has_1800_requests_for_all_keys_of_a_store() -> None:
    clock = Clock()
    quotas = StoreQuotas(clock)

    assert passed(quotas, "cks-1", 2000) == 1800
    clock.now += 0.5
    assert passed(quotas, "cks-1", 2000) == 900
    clock.now += 100
    assert passed(quotas, "cks-1", 2000) == 1800


def test_each_store_has_its_own() -> None:
    quotas = StoreQuotas(Clock(), 3)

    assert [passed(quotas, store_id, 5) for store_id in ("cks-1", "cks-2")] == [3, 3]


async def test_keys_share_the_quota_of_their_store_and_a_refused_request_reaches_no_proxy(tmp_path: Path) -> None:
    kms = Harness(tmp_path / "state", requests_per_second=2)
    store_id = await kms.connected_store()
    keys = [await kms.create_key(store_id, name) for name in ("one", "two")]
    kms.proxy.calls.clear()

    for key_id in keys:
        await kms.call("GenerateDataKey", KeyId=key_id, KeySpec="AES_256")
    async with refused("ThrottlingException"):
        await kms.call("Encrypt", KeyId=keys[0], Plaintext=b"x")

    assert len(kms.proxy.calls) == 2
    await kms.call("DescribeKey", KeyId=keys[0])
    ordinary = await kms.create_key()
    for _ in range(5):
        await kms.call("Encrypt", KeyId=ordinary, Plaintext=b"x")
    kms.clock.now += 1
    await kms.call("Encrypt", KeyId=keys[0], Plaintext=b"x")
    await kms.close()
