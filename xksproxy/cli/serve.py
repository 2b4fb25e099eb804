"""``xksproxy serve``."""

import signal
from functools import partial
from pathlib import Path

import click

from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.cli.config_check import load_checked
from xksproxy.cli.config_option import config_option
from xksproxy.cli.open_files import require_open_files
from xksproxy.cli.output import print_error
from xksproxy.cli.thread_limit import require_threads
from xksproxy.config.check import listeners_of
from xksproxy.config.errors import ConfigError
from xksproxy.config.listener_checks import trial_findings
from xksproxy.config.model import Config
from xksproxy.config.resource_checks import resource_findings
from xksproxy.server.core_dumps import forbid_core_dumps, permit_core_dumps
from xksproxy.server.master import ProxyApplication
from xksproxy.server.memory_lock import MemoryLock


@click.command()
@config_option
def serve(config_file: Path) -> None:
    """Run the proxy in the foreground, as a systemd service does.

    On SIGTERM the proxy finishes the requests in flight and exits. On SIGHUP it reads the configuration again; if the
    new one cannot be used, the proxy keeps the old one. It reads changed credentials and certificates without a signal.

    \b
    Example:
      xksproxy serve --config /etc/xksproxy/xksproxy.toml
    """
    # Until the master handles it, SIGHUP would end the process. Whoever sent it wants what is read below.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    require_open_files()
    Path.cwd()  # which gunicorn needs: without one, this is an error that is explained
    forbid_core_dumps()
    MemoryLock().lock()
    policies = PolicyLibrary()
    load = partial(load_checked, config_file, serving=True, policies=policies)
    application = ProxyApplication(load, policies, config_file)
    config = application.load()
    if config.server.core_dumps:
        permit_core_dumps()
    _require_listeners(config_file, config)
    require_threads(config)
    application.run()


def _require_listeners(config_file: Path, config: Config) -> None:
    """Refuse addresses that cannot be had, at once and with the reason; warn of limits that are too low.

    Raises:
        ConfigError: another process listens there, the address is not of this machine, or the right is missing.
    """
    findings = [
        *trial_findings(listeners_of(config), starting=True),
        *resource_findings(config),
    ]
    if problems := [f"{config_file}: {finding.text}" for finding in findings if finding.serious]:
        raise ConfigError(problems)
    for finding in findings:
        print_error(f"warning: {config_file}: {finding.text}")
