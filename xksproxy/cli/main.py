"""The command ``xksproxy`` and its exit codes: 0 all is well, 1 something is wrong, 2 it could not be done."""

import sys

import click

from xksproxy import __version__
from xksproxy.cli.audit import audit
from xksproxy.cli.bench import bench
from xksproxy.cli.block import block, status, unblock
from xksproxy.cli.call import call
from xksproxy.cli.check_config import check_config
from xksproxy.cli.conformance import conformance
from xksproxy.cli.credentials import credentials
from xksproxy.cli.dev import dev
from xksproxy.cli.hsm import hsm
from xksproxy.cli.import_settings import import_settings
from xksproxy.cli.keys import keys
from xksproxy.cli.kms_config import kms_config
from xksproxy.cli.kms_emulator import kms_emulator
from xksproxy.cli.policy import policy
from xksproxy.cli.rotate import disable, enable, rotate
from xksproxy.cli.serve import serve
from xksproxy.cli.version import version
from xksproxy.cli.words import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, complain, explain
from xksproxy.config.errors import ConfigError
from xksproxy.config.secret import SecretError
from xksproxy.devkit.softhsm import SoftHsmError
from xksproxy.hsm.errors import HsmError
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.statefile import StateUnusable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="xksproxy")
def cli() -> None:
    """An AWS KMS external key store (XKS) proxy: your keys stay in your HSM.

    \b
    Try it on this machine:   xksproxy dev
    Run it:                   xksproxy serve --config /etc/xksproxy/xksproxy.toml
    """


for command in (
    *(audit, bench, block, call, check_config, conformance, credentials, dev, hsm, import_settings),
    *(keys, kms_config, kms_emulator, policy, serve, status, unblock, version),
):
    cli.add_command(command)
for command in (rotate, disable, enable):
    keys.add_command(command)


def main() -> None:
    """Run the command line; no traceback reaches a user for what a user can mend."""
    try:
        cli()
    except ConfigError as error:
        complain("the configuration cannot be used:", *error.problems)
    except RotationRefused as error:
        complain(str(error), *error.hints)
        sys.exit(FOUND_SOMETHING_WRONG)
    except (HsmError, SecretError, SoftHsmError) as error:
        complain(str(error), *explain(error))
    except StateUnusable as error:
        complain(f"the state directory cannot be used: {error}")
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(COULD_NOT_RUN)
