"""``xksproxy version``."""

import platform
import ssl
from importlib import metadata

import click

from xksproxy import __version__
from xksproxy.cli.output import print_json, print_line

_LIBRARIES = ("aiohttp", "uvloop", "gunicorn", "python-pkcs11", "msgspec", "cryptography")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(*, as_json: bool) -> None:
    """Print the version of xksproxy, of Python, of OpenSSL and of the main libraries.

    \b
    Example:
      xksproxy version
    """
    versions = {
        "xksproxy": __version__,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{library: metadata.version(library) for library in _LIBRARIES},
    }
    if as_json:
        print_json(versions)
        return
    for name, value in versions.items():
        print_line(f"{name:14} {value}")
