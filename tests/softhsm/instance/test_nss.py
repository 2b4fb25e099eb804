"""NSS softokn, a second implementation with a code base, error codes and faults of its own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_support import until

from xksproxy.config.model import Hsm
from xksproxy.config.object_names import ObjectName
from xksproxy.config.secret import Secret
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import CiphertextRejected, HsmError, KeyMissing, KeyRefusesUse
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.data_objects import DataObjects
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

_MODULES = ("/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so")


@pytest.fixture(scope="module")
def nss(tmp_path_factory: pytest.TempPathFactory) -> Hsm:
    """A new NSS database; one without a password could not be logged in to."""
    home = tmp_path_factory.mktemp("nss")
    (home / "db").mkdir()
    (home / "pin").write_text("1234\n")
    (home / "pin").chmod(0o600)
    subprocess.run(["certutil", "-N", "-d", f"sql:{home / 'db'}", "-f", str(home / "pin")], check=True)
    module = next(path for path in _MODULES if Path(path).exists())
    parameters = f"configdir='sql:{home / 'db'}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    return Hsm(
        id="nss",
        module=module,
        token="NSS Certificate DB",
        preset="nss",
        initialize_string=parameters,
        pin="1234",
        sessions=2,
    )


@pytest.fixture(scope="module")
def nss_modules(tmp_path_factory: pytest.TempPathFactory) -> Modules:
    state = tmp_path_factory.mktemp("nss-state")
    return Modules(PinGuard(state), UsageBook(state))


@pytest.fixture
def nss_session(nss: Hsm, nss_modules: Modules) -> Iterator[HsmSession]:
    made = HsmSession(nss_modules.connect(nss, Secret("1234")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def key(nss: Hsm, nss_modules: Modules) -> str:
    session = HsmSession(nss_modules.connect(nss, Secret("1234")))
    session.create_key("nss-key", bits=256, encrypt=True, decrypt=True)
    session.close()
    return "nss-key"


def test_it_keeps_no_data_objects_as_the_preset_says(nss_session: HsmSession) -> None:
    objects = DataObjects(nss_session._cryptoki, nss_session._handle, "state", private=True)

    with pytest.raises(CryptokiError, match="C_CreateObject: CKR_ATTRIBUTE_VALUE_INVALID"):
        objects.create(b"value", "application")
    with pytest.raises(HsmError, match="keeps no data objects"):
        nss_session.data_objects("state")


def test_the_settings_are_proven(nss_session: HsmSession) -> None:
    nss_session.test_settings()


@pytest.mark.parametrize("size", [0, 1, 32, 4300, 8192])
def test_what_is_encrypted_decrypts(nss_session: HsmSession, key: str, size: int) -> None:
    """The size query of NSS omits the tag; there is none here."""
    sealed = nss_session.encrypt(key, bytes(size), b"aad")

    assert nss_session.decrypt(key, sealed, b"aad") == bytes(size)


def test_a_wrong_tag_is_refused_and_the_session_goes_on(nss_session: HsmSession, key: str) -> None:
    sealed = nss_session.encrypt(key, b"text", b"aad")
    with pytest.raises(CiphertextRejected):
        nss_session.decrypt(key, Sealed(sealed.iv, sealed.ciphertext, bytes(16)), b"aad")

    assert nss_session.decrypt(key, sealed, b"aad") == b"text"


def test_a_key_without_the_usage_is_refused(nss_session: HsmSession) -> None:
    generate_aes_key(nss_session._session, 256, name=ObjectName("nss-encrypt"), encrypt=True, decrypt=False)

    with pytest.raises(KeyRefusesUse):
        nss_session.decrypt("nss-encrypt", Sealed(bytes(12), b"", bytes(16)), b"")


def test_a_key_that_is_not_there_is_missing(nss_session: HsmSession) -> None:
    with pytest.raises(KeyMissing):
        nss_session.describe_key("no such key")


def test_sixteen_byte_ivs_decrypt(nss_session: HsmSession, key: str) -> None:
    handle = nss_session._keys.find(key).handle
    iv = bytes(range(16))
    output, _ = nss_session._cryptoki.gcm_encrypt(nss_session._handle, handle, iv=iv, aad=b"aad", plaintext=b"text")

    assert nss_session.decrypt(key, Sealed(iv, output[:-16], output[-16:]), b"aad") == b"text"


async def test_an_instance_serves(nss: Hsm, nss_modules: Modules, key: str) -> None:
    instance = Instance(nss, nss_modules)
    instance.start()
    try:
        await until(lambda: instance.serving)
        sealed = await instance.call(lambda session: session.encrypt(key, b"text", b""), Deadline.after(60))
        opened = await instance.call(lambda session: session.decrypt(key, sealed, b""), Deadline.after(60))
    finally:
        instance.stop()

    assert opened == b"text"
    assert instance.serving
