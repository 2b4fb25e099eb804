"""``xksproxy serve``."""

from pathlib import Path

import click

from xksproxy.cli.config_option import config_option, load_checked
from xksproxy.server.master import ProxyApplication


@click.command()
@config_option
def serve(config_file: Path) -> None:
    """Run the proxy in the foreground, as a systemd service does.

    SIGTERM finishes the requests in flight and leaves. SIGHUP reads the configuration again; one that cannot be
    used is refused, and the old one goes on serving. Credentials and certificates that change on disk are followed
    without it.

    \b
    Example:
      xksproxy serve --config /etc/xksproxy/xksproxy.toml
    """
    ProxyApplication(lambda: load_checked(config_file)).run()
