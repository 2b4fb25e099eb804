"""The proxy settings of an external key store, from the parameters of a request."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from xksproxy.sigv4.keyring import Credential
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.state.records import Connectivity, KeyStore, XksProxy

_PREFIX: Final = "Xks"
_REQUIRED: Final = (
    "XksProxyConnectivity",
    "XksProxyUriEndpoint",
    "XksProxyUriPath",
    "XksProxyAuthenticationCredential",
)
_SERVICE: Final = "XksProxyVpcEndpointServiceName"
_OWNER: Final = "XksProxyVpcEndpointServiceOwner"

NEED_DISCONNECTED: Final = frozenset({"XksProxyConnectivity", "XksProxyUriEndpoint", _SERVICE, _OWNER})
"""Parameters that UpdateCustomKeyStore accepts only while the key store is DISCONNECTED."""


def type_parameters(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that only external key stores have."""
    return frozenset(name for name in parameters if name.startswith(_PREFIX))


def address(proxy: XksProxy) -> ProxyAddress:
    """The address of the proxy and the credential for it."""
    return ProxyAddress(proxy.uri_endpoint, proxy.uri_path, Credential(proxy.access_key_id, proxy.secret_access_key))


def new_proxy(parameters: Mapping[str, Any], account: str) -> XksProxy:
    """The proxy of a new key store.

    Raises:
        KmsError: ValidationException.
    """
    missing = [name for name in _REQUIRED if name not in parameters]
    if missing:
        raise KmsError("ValidationException", f"An external key store needs {', '.join(missing)}")
    credential = parameters["XksProxyAuthenticationCredential"]
    proxy = XksProxy(
        connectivity=Connectivity(parameters["XksProxyConnectivity"]),
        uri_endpoint=parameters["XksProxyUriEndpoint"],
        uri_path=parameters["XksProxyUriPath"],
        access_key_id=credential["AccessKeyId"],
        secret_access_key=credential["RawSecretAccessKey"],
    )
    return _checked(_with_service(proxy, parameters, account))


def changed_proxy(proxy: XksProxy, parameters: Mapping[str, Any], account: str) -> XksProxy:
    """The settings after UpdateCustomKeyStore.

    Raises:
        KmsError: ValidationException.
    """
    connectivity = Connectivity(parameters.get("XksProxyConnectivity", proxy.connectivity))
    if connectivity is not proxy.connectivity and "XksProxyUriEndpoint" not in parameters:
        raise KmsError("ValidationException", f"A change to {connectivity} needs XksProxyUriEndpoint")
    credential = parameters.get("XksProxyAuthenticationCredential")
    changed = replace(
        proxy,
        connectivity=connectivity,
        uri_endpoint=parameters.get("XksProxyUriEndpoint", proxy.uri_endpoint),
        uri_path=parameters.get("XksProxyUriPath", proxy.uri_path),
        access_key_id=credential["AccessKeyId"] if credential else proxy.access_key_id,
        secret_access_key=credential["RawSecretAccessKey"] if credential else proxy.secret_access_key,
    )
    return _checked(_with_service(changed, parameters, account))


def require_unique(proxy: XksProxy, others: Iterable[KeyStore]) -> None:
    """Refuse settings that another key store of the account and Region has.

    Two key stores may share a public endpoint if their paths differ. A VPC endpoint service and its name belong to one
    key store.

    Raises:
        KmsError: XksProxyUriInUseException, XksProxyUriEndpointInUseException or
            XksProxyVpcEndpointServiceInUseException.
    """
    proxies = [store.proxy for store in others if store.proxy is not None]
    same_endpoint = [other for other in proxies if other.uri_endpoint.lower() == proxy.uri_endpoint.lower()]
    if any(other.uri_path == proxy.uri_path for other in same_endpoint):
        raise KmsError(
            "XksProxyUriInUseException",
            f"{proxy.uri_endpoint}{proxy.uri_path} is already associated with another external key store",
        )
    if any(Connectivity.VPC in (other.connectivity, proxy.connectivity) for other in same_endpoint):
        raise KmsError(
            "XksProxyUriEndpointInUseException",
            f"{proxy.uri_endpoint} is already associated with another external key store, "
            "and the endpoint of a VPC endpoint service cannot be shared",
        )
    if proxy.service_name and any(other.service_name == proxy.service_name for other in proxies):
        raise KmsError(
            "XksProxyVpcEndpointServiceInUseException",
            f"{proxy.service_name} is already associated with another external key store",
        )


def _with_service(proxy: XksProxy, parameters: Mapping[str, Any], account: str) -> XksProxy:
    """Set the VPC endpoint service, which only one connectivity has. Its default owner is the account of the caller."""
    if proxy.connectivity is Connectivity.PUBLIC:
        if _SERVICE in parameters or _OWNER in parameters:
            raise KmsError("ValidationException", f"{_SERVICE} and {_OWNER} need the connectivity {Connectivity.VPC}")
        return replace(proxy, service_name=None, service_owner=None)
    name = parameters.get(_SERVICE, proxy.service_name)
    if name is None:
        raise KmsError("ValidationException", f"The connectivity {Connectivity.VPC} needs {_SERVICE}")
    return replace(proxy, service_name=name, service_owner=parameters.get(_OWNER, proxy.service_owner or account))


def _checked(proxy: XksProxy) -> XksProxy:
    try:
        IPv4Address(proxy.uri_endpoint.removeprefix("https://"))
    except AddressValueError:
        return proxy
    raise KmsError(
        "ValidationException", f"XksProxyUriEndpoint must have a domain name, not an IP address: {proxy.uri_endpoint}"
    )
