"""Checks the form of endpoint, path and credential, before any call."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from xksproxy.client.target import Target
from xksproxy.spec.limits import MAXIMUM_URI_CHARACTERS
from xksproxy_tools.kms_emulator.diagnose.diagnosis import Step, good, refused
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.address import HTTPS_PORT, ProxyAddress

_DOMAIN_NAME: Final = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")
_MAXIMUM_ENDPOINT_CHARACTERS: Final = 128
_LONGEST_PATH: Final = "/keys//metadata"


def check_format(target: Target, address: ProxyAddress, key_id: str) -> Iterator[Step]:
    """Check endpoint, path and credential as CreateCustomKeyStore does (R-URI-2 to R-URI-4)."""
    problem = _endpoint_problem(target, address) or _length_problem(address, key_id)
    if problem is None:
        yield good("endpoint", f"{address.endpoint}{address.uri_path}")
    else:
        yield _invalid("endpoint", *problem)
    if (text := address.credential.problem()) is None:
        yield good("credential", f"access key id {address.credential.access_key_id}")
    else:
        yield _invalid("credential", text, "create one with: xksproxy credentials create")


def _endpoint_problem(target: Target, address: ProxyAddress) -> tuple[str, str] | None:
    if target.port != HTTPS_PORT:
        rule = f"--resolve NAME:{HTTPS_PORT}=ADDRESS:{target.port}"
        return (
            f"port {target.port}; XksProxyUriEndpoint has no port, and KMS calls port {HTTPS_PORT} only",
            f"serve on port {HTTPS_PORT}; for a proxy on this machine, omit the port and use {rule}",
        )
    if _is_address(target.host) or not _DOMAIN_NAME.fullmatch(target.host):
        return (
            f"{target.host} is not a fully qualified domain name",
            "give the proxy a domain name that its certificate contains",
        )
    if len(address.endpoint) > _MAXIMUM_ENDPOINT_CHARACTERS:
        return (
            f"{len(address.endpoint)} characters; KMS accepts at most {_MAXIMUM_ENDPOINT_CHARACTERS}",
            "use a shorter name",
        )
    return None


def _length_problem(address: ProxyAddress, key_id: str) -> tuple[str, str] | None:
    length = len(address.endpoint + address.uri_path + _LONGEST_PATH + key_id)
    if length <= MAXIMUM_URI_CHARACTERS:
        return None
    return (
        f"a URI of {length} characters for the key {key_id}; the API allows {MAXIMUM_URI_CHARACTERS}",
        "use a shorter path or a shorter external key id",
    )


def _invalid(name: str, seen: str, advice: str) -> Step:
    error = KmsError("ValidationException", f"The {name} of the external key store proxy is not of the required form.")
    return refused(name, seen, advice, "CreateCustomKeyStore", error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
