"""``xksproxy serve``."""

from pathlib import Path

import click

from xksproxy.cli.config_option import config_option, load_checked
from xksproxy.server.master import ProxyApplication


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
    ProxyApplication(lambda: load_checked(config_file, serving=True)).run()
