"""``xksproxy check-config``."""

import sys
from pathlib import Path

import click

from xksproxy.cli.config_option import config_option, load_checked, policy_warnings
from xksproxy.cli.words import FOUND_SOMETHING_WRONG, complain, print_json
from xksproxy.config.errors import ConfigError


@click.command("check-config")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(config_file: Path, *, as_json: bool) -> None:
    """Check a configuration as `serve` does, without starting or touching the HSM.

    Policies that can never match are warnings: they do not change the exit code.

    \b
    Example:
      xksproxy check-config --config /etc/xksproxy/xksproxy.toml
    """
    try:
        config = load_checked(config_file)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems})
        else:
            complain("the configuration cannot be used:", *error.problems)
        sys.exit(FOUND_SOMETHING_WRONG)
    warnings = list(policy_warnings(config))
    stores = [store.name for store in config.keystore]
    hsms = [hsm.id for hsm in config.hsm]
    if as_json:
        print_json(
            {"ok": True, "listen": config.server.listen, "keystores": stores, "hsms": hsms, "warnings": warnings}
        )
    else:
        click.echo(f"{config_file}: ok; the HSM was not asked, `xksproxy keys list` does that")
        for warning in warnings:
            complain(f"warning: {warning}")
        click.echo(f"  listens on {config.server.listen}; key stores: {', '.join(stores)}; HSMs: {', '.join(hsms)}")
