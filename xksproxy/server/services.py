"""What a worker serves with, built once from the configuration and passed on."""

from dataclasses import dataclass

from xksproxy.config.model import Config
from xksproxy.hsm.module import Modules
from xksproxy.hsm.token import Token
from xksproxy.keystore.store import KeyStore
from xksproxy.operations.engine import Engine
from xksproxy.spec.errors import InvalidUriPathException


@dataclass(frozen=True, slots=True)
class Service:
    """A key store and the engine that holds its keys."""

    store: KeyStore
    engine: Engine


class Services:
    """All key stores of a worker, by path prefix, and the tokens behind them."""

    def __init__(self, config: Config) -> None:
        """Build them; no HSM is touched yet.

        Raises:
            ConfigError: a key store's credentials cannot be read.
        """
        modules = Modules()
        self._tokens = {hsm.id: Token(hsm, modules) for hsm in config.hsm}
        self._by_prefix = {
            table.uri_path_prefix: Service(KeyStore.build(table), self._tokens[table.hsms[0]])
            for table in config.keystore
        }

    def start(self) -> None:
        """Start the HSM threads; call it in the process that serves, after any fork."""
        for token in self._tokens.values():
            token.start()

    def stop(self) -> None:
        """Let the HSM threads end."""
        for token in self._tokens.values():
            token.stop()

    def at(self, prefix: str) -> Service:
        """The key store at a path prefix.

        Raises:
            InvalidUriPathException: there is none (R-URI-11).
        """
        service = self._by_prefix.get(prefix)
        if service is None:
            raise InvalidUriPathException(
                "No key store has this URI path; compare XksProxyUriPath in AWS KMS with uri_path_prefix of the proxy"
            )
        return service
