"""The four APIs over a real socket, TLS, SigV4 and SoftHSM2."""

from xksproxy.client.xks import XksClient
from xksproxy.spec.uri import Operation


def test_what_encrypt_answers_decrypts_to_the_plaintext(client: XksClient, request_metadata: dict[str, str]) -> None:
    message = {"requestMetadata": request_metadata, "plaintext": "SGVsbG8gV29ybGQh", "encryptionAlgorithm": "AES_GCM"}
    sealed = client.call(Operation.ENCRYPT, message, "demo-key")
    assert sealed.status == 200, sealed.body
    message = {"requestMetadata": request_metadata, "encryptionAlgorithm": "AES_GCM", **sealed.body}

    opened = client.call(Operation.DECRYPT, message, "demo-key")

    assert (opened.status, opened.body) == (200, {"plaintext": "SGVsbG8gV29ybGQh"})
