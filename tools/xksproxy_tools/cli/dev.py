"""``xksproxy dev``."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from xksproxy.cli.output import COULD_NOT_RUN, print_error
from xksproxy.spec.uri import Operation, compose_path
from xksproxy_tools.development.environment import REGION, URI_PATH_PREFIX, DevEnvironment, open_environment
from xksproxy_tools.development.softhsm import SoftHsmError

_DEFAULT_PORT = 8443


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=".xksproxy-dev",
    show_default=True,
    help="Directory for token, certificates, credential and configuration.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"Port on 127.0.0.1.  [default: the port of the last run, or {_DEFAULT_PORT}]",
)
def dev(directory: Path, port: int | None) -> None:
    """Try the proxy on this machine, with a SoftHSM2 token and a development CA.

    The first run creates the directory; later runs use it. Do not use it in production.

    \b
    Example:
      xksproxy dev --port 9443
    """
    existed = directory.exists()
    try:
        environment = open_environment(directory, port, _DEFAULT_PORT)
    except SoftHsmError as error:
        print_error(str(error))
        sys.exit(COULD_NOT_RUN)
    click.echo(_introduction(environment, existed=existed))
    sys.stdout.flush()
    # A new process image: this process has loaded a PKCS#11 module, which a master process must not do.
    os.execv(sys.executable, [sys.executable, "-m", "xksproxy", "serve", "--config", str(environment.config)])  # noqa: S606


def _introduction(environment: DevEnvironment, *, existed: bool) -> str:
    """Commands to paste into another terminal."""
    url = f"https://localhost:{environment.port}{compose_path(URI_PATH_PREFIX, Operation.ENCRYPT, 'demo-key')}"
    command = "xksproxy" if shutil.which("xksproxy") else shlex.quote(str(Path(sys.executable).with_name("xksproxy")))
    metadata = (
        '"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice",'
        f'"kmsKeyArn":"arn:aws:kms:{REGION}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",'
        '"kmsOperation":"Encrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"'
    )
    return f"""\
xksproxy dev: {"using" if existed else "made"} {environment.directory}
  token with the keys demo-key, encrypt-only-key, decrypt-only-key, impotent-key
  serving on https://localhost:{environment.port} (Ctrl-C ends it)

In another terminal:

  source {shlex.quote(str(environment.client_env))}

  curl -sS $SECURE --aws-sigv4 "aws:amz:$REGION:kms-xks-proxy" \\
    --user "$SIGV4_ACCESS_KEY_ID:$SIGV4_SECRET_ACCESS_KEY" -H "Content-Type: application/json" \\
    {url} \\
    -d '{{"requestMetadata":{{{metadata}}},"plaintext":"SGVsbG8gV29ybGQh","encryptionAlgorithm":"AES_GCM"}}'

or, with the client of xksproxy:

  {command} call encrypt --plaintext 'Hello World!' | {command} call decrypt

The file for the KMS console: {environment.directory / "kms-console.json"}
"""
