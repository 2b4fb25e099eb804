"""What KMS makes of a failed call: tables from outcome to exception and ConnectionErrorCode."""

from xksproxy.emulator.errors import KmsError
from xksproxy.emulator.proxy.outcome import Outcome
from xksproxy.spec.messages import GetKeyMetadataResponse


def connection_error_code(outcome: Outcome) -> str:
    """The ConnectionErrorCode after ConnectCustomKeyStore."""
    raise NotImplementedError


def key_store_error(outcome: Outcome) -> KmsError:
    """What CreateCustomKeyStore and UpdateCustomKeyStore answer."""
    raise NotImplementedError


def create_key_error(outcome: Outcome) -> KmsError:
    """What CreateKey answers."""
    raise NotImplementedError


def key_refusal(external_key_id: str, key: GetKeyMetadataResponse) -> KmsError | None:
    """Why CreateKey refuses an external key that is there, or None (R-META-6)."""
    raise NotImplementedError


def cryptographic_error(outcome: Outcome) -> KmsError:
    """What Encrypt, Decrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext and ReEncrypt answer."""
    raise NotImplementedError


def not_connected(name: str) -> KmsError:
    """The answer while the key store is not CONNECTED: ``name`` is the exception, which depends on the operation."""
    raise NotImplementedError
