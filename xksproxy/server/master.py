"""The gunicorn master: it supervises the workers and never touches PKCS#11."""

import logging
from collections.abc import Callable
from typing import Final

from gunicorn.app.base import BaseApplication

from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config
from xksproxy.server.logs import logging_config

_log: Final = logging.getLogger(__name__)
_HEARTBEAT_TIMEOUT_SECONDS: Final = 30
_DRAIN_SECONDS: Final = 10
_BACKLOG: Final = 2048


class ProxyApplication(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """Runs the proxy. ``load_checked`` reads and checks the configuration, at start and on SIGHUP."""

    def __init__(self, load_checked: Callable[[], Config]) -> None:
        """Load the configuration.

        Raises:
            ConfigError: it cannot be used.
        """
        self._load_checked = load_checked
        self._config = load_checked()
        super().__init__(prog="xksproxy")

    def load_config(self) -> None:
        """Set gunicorn up from ``[server]`` and ``[logging]``."""
        settings = {
            "bind": [self._config.server.listen],
            "workers": self._config.server.workers,
            "worker_class": "xksproxy.server.worker.XksWorker",
            "timeout": _HEARTBEAT_TIMEOUT_SECONDS,
            "graceful_timeout": _DRAIN_SECONDS,
            "backlog": _BACKLOG,
            # Workers make their own TLS context; this lets the master say https of its listener.
            "certfile": self._config.server.tls.certificate,
            "keyfile": self._config.server.tls.private_key,
            "proc_name": "xksproxy",
            "control_socket_disable": True,
            "logconfig_dict": logging_config(self._config.logging),
            "loglevel": self._config.logging.level,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Config:
        """What a worker serves."""
        return self._config

    def reload(self) -> None:
        """Read the configuration again; one that cannot be used is refused, and the old one goes on serving."""
        try:
            config = self._load_checked()
        except ConfigError as error:
            _log.error("configuration refused", extra={"fields": {"problems": error.problems}})
            return
        self._config = config
        self.callable = None
        super().reload()
