"""A TLS handshake in memory, before a context is used for connections."""

import ssl
from typing import Final

_MAXIMUM_ROUNDS: Final = 10
_VERSIONS: Final = (
    (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
    (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
)


def handshake_problem(context: ssl.SSLContext) -> str | None:
    """Why clients like KMS cannot connect to a server with this context, or None.

    One client offers TLS 1.2 and 1.3, another TLS 1.2 alone. The context must not ask for a client certificate yet.
    """
    for lowest, highest in _VERSIONS:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.maximum_version, client.minimum_version = highest, lowest
        try:
            _handshake(context, client)
        except ssl.SSLError as error:
            offered = "TLS 1.2" if highest is ssl.TLSVersion.TLSv1_2 else "TLS 1.2 and 1.3"
            return (
                f"a trial handshake with a client that offers {offered} fails: {error.reason or error}; expected an RSA"
                " key, or an ECDSA key on the curve P-256 or P-384, and an openssl.cnf that permits TLS 1.2"
            )
    return None


def _handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    """Make a handshake. Raises ssl.SSLError if one side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    waiting = [client, server]
    for _ in range(_MAXIMUM_ROUNDS):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return
    raise ssl.SSLError(0, "the handshake is not complete after 10 rounds")
