"""``xksproxy call``: sends one signed request to a proxy and measures the time."""

import base64
import http.client
import json
import os
import ssl
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final, NoReturn

import click

from xksproxy.cli.output import (
    COULD_NOT_RUN,
    FOUND_SOMETHING_WRONG,
    print_document,
    print_error,
    print_json,
    print_line,
    write_output,
)
from xksproxy.cli.pasted import HOST, ID, PREFIX, REGION
from xksproxy.client.xks import Answer, Endpoint, XksClient
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.pasted import wrapping_problem
from xksproxy.spec.uri import Operation

_CA_PREFIX = "--cacert "
_NO_TRUSTED_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
"""Results of OpenSSL's verification (X509_V_ERR_…) that another CA can change."""


@click.group()
def call() -> None:
    """Send one signed request to a proxy and print the response. The time is printed to standard error.

    The environment variables of client.env replace options. Exit code 1 if the response is an error.

    \b
    Example:
      source .xksproxy-dev/client.env
      xksproxy call encrypt --plaintext 'Hello World!' | xksproxy call decrypt
    """


def _endpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--host", type=HOST, envvar="XKS_PROXY_HOST", show_envvar=True, required=True, help="host or host:port"
        ),
        click.option(
            "--prefix",
            type=PREFIX,
            envvar="URI_PREFIX",
            show_envvar=True,
            default="",
            help="The path before /kms/xks/v1.",
        ),
        click.option(
            "--region", type=REGION, envvar="REGION", show_envvar=True, default="us-east-1", show_default=True
        ),
        click.option("--access-key-id", type=ID, envvar="SIGV4_ACCESS_KEY_ID", show_envvar=True, required=True),
        click.option(
            "--secret-access-key-file",
            type=click.File(),
            help="A file with the secret.  [default: the variable SIGV4_SECRET_ACCESS_KEY]",
        ),
        click.option("--ca", envvar="SECURE", help="PEM file of the CA to trust.  [env var: SECURE, as --cacert FILE]"),
        click.option("--operation", "kms_operation", help="requestMetadata.kmsOperation.  [default: the usual one]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


_key_option = click.option(
    "--key", "key_id", type=ID, envvar="KEY_ID", show_envvar=True, required=True, help="External key id."
)
_aad_option = click.option("--aad", help="Additional authenticated data, as text.")


@call.command()
@_endpoint_options
def health(**endpoint: Any) -> None:
    """Call GetHealthStatus.

    \b
    Example:
      xksproxy call health
    """
    _call(Operation.GET_HEALTH_STATUS, "KmsHealthCheck", {}, "", **endpoint)


@call.command()
@_endpoint_options
@_key_option
def metadata(key_id: str, **endpoint: Any) -> None:
    """Call GetKeyMetadata.

    \b
    Example:
      xksproxy call metadata --key demo-key
    """
    _call(Operation.GET_KEY_METADATA, "CreateKey", {}, key_id, **endpoint)


@call.command()
@_endpoint_options
@_key_option
@click.option("--plaintext", help="Text to encrypt.  [default: stdin]")
@_aad_option
@click.option("--cdiv", is_flag=True, help="Ask for a ciphertext data integrity value.")
def encrypt(key_id: str, plaintext: str | None, aad: str | None, *, cdiv: bool, **endpoint: Any) -> None:
    """Call Encrypt. The response can be piped into `call decrypt`.

    \b
    Example:
      xksproxy call encrypt --plaintext 'Hello World!' --aad project=nile --cdiv
    """
    text = sys.stdin.buffer.read() if plaintext is None else plaintext.encode("utf-8", "surrogateescape")
    message = {"plaintext": _base64(text), "encryptionAlgorithm": "AES_GCM", **_aad_field(aad)}
    if cdiv:
        message["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256"
    _call(Operation.ENCRYPT, "Encrypt", message, key_id, **endpoint)


@call.command()
@_endpoint_options
@_key_option
@click.option("--input", "source", type=click.File("rb"), default="-", help="A response of Encrypt.  [default: stdin]")
@_aad_option
@click.option("--raw", is_flag=True, help="Write the decoded plaintext instead of JSON.")
def decrypt(key_id: str, source: Any, aad: str | None, *, raw: bool, **endpoint: Any) -> None:
    """Call Decrypt with a response of Encrypt.

    \b
    Example:
      xksproxy call decrypt --input answer.json --aad project=nile --raw
    """
    try:
        response = json.loads(source.read())
        fields = ("ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata")
        message = {name: response[name] for name in fields if name in response}
    except (ValueError, TypeError, RecursionError):
        _fail("the input is not a JSON response of Encrypt")
    message |= {"encryptionAlgorithm": "AES_GCM", **_aad_field(aad)}
    _call(Operation.DECRYPT, "Decrypt", message, key_id, raw=raw, **endpoint)


def _call(
    operation: Operation,
    usual_operation: str,
    message: dict[str, Any],
    key_id: str,
    *,
    host: str,
    prefix: str,
    region: str,
    access_key_id: str,
    secret_access_key_file: Any,
    ca: str | None,
    kms_operation: str | None,
    raw: bool = False,
) -> None:
    credential = Credential(access_key_id, _secret(secret_access_key_file))
    path_prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
    body = {"requestMetadata": _metadata(kms_operation or usual_operation, region), **message}
    response = _send(Endpoint(host, path_prefix, region, credential), ca, operation, body, key_id)
    print_line(f"{response.status} in {response.milliseconds:.1f} ms", err=True)
    if raw and "plaintext" in response.body:
        _print_plaintext(base64.b64decode(response.body["plaintext"]))
    else:
        print_json(response.body, indent=None)
    if response.status != http.HTTPStatus.OK:
        sys.exit(FOUND_SOMETHING_WRONG)


def _print_plaintext(plaintext: bytes) -> None:
    """Print it as it is; on a terminal, with what a terminal could obey escaped."""
    if sys.stdout.isatty():
        print_document(plaintext.decode("utf-8", "backslashreplace"))
        return
    write_output(plaintext)


def _send(endpoint: Endpoint, ca: str | None, operation: Operation, body: dict[str, Any], key_id: str) -> Answer:
    url = f"https://{endpoint.host}"
    try:
        context = ssl.create_default_context(cafile=ca.removeprefix(_CA_PREFIX) if ca else None)
        with XksClient(endpoint, context) as client:
            client.connect()
            return client.call(operation, body, key_id)
    except ssl.SSLCertVerificationError as error:
        hint = ["name the CA with --ca FILE"] if error.verify_code in _NO_TRUSTED_ISSUER else []
        _fail(f"{url}: {error.verify_message}", *hint)
    except (OSError, http.client.HTTPException, ValueError) as error:
        _fail(f"{url}: {error}")
    except RecursionError:
        _fail(f"{url}: the response is nested too deeply")


def _secret(file: Any) -> str:
    try:
        secret = os.environ.get("SIGV4_SECRET_ACCESS_KEY", "") if file is None else str(file.read()).rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("the file with the secret is not text") from None
    if not secret:
        raise click.UsageError("the secret is missing: set SIGV4_SECRET_ACCESS_KEY or give --secret-access-key-file")
    if problem := wrapping_problem(secret):
        raise click.UsageError(f"the secret access key: {problem}; remove that")
    return secret


def _metadata(kms_operation: str, region: str) -> dict[str, str]:
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/xksproxy-call",
        "kmsKeyArn": f"arn:aws:kms:{region}:123456789012:key/00000000-0000-0000-0000-000000000000",
        "kmsOperation": kms_operation,
        "kmsRequestId": str(uuid.uuid4()),
    }


def _aad_field(aad: str | None) -> dict[str, str]:
    return {} if aad is None else {"additionalAuthenticatedData": _base64(aad.encode("utf-8", "surrogateescape"))}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _fail(message: str, *more: str) -> NoReturn:
    print_error(message, *more)
    sys.exit(COULD_NOT_RUN)
