"""``python -m xksproxy_tools.development DIRECTORY``: creates a test token without a proxy (see ``softhsm/``)."""

import sys
from pathlib import Path

from xksproxy.hsm.errors import HsmError
from xksproxy_tools.development.environment import TOKEN_LABEL, make_token_with_keys
from xksproxy_tools.development.softhsm import SoftHsmError

if __name__ == "__main__":
    directory = Path(sys.argv[1]).absolute()
    try:
        directory.mkdir(mode=0o700)
        module = make_token_with_keys(directory)
    except (OSError, SoftHsmError, HsmError) as error:
        sys.exit(f"make-token: {error}")
    print(f"export SOFTHSM2_CONF={directory / 'softhsm2.conf'}")  # noqa: T201 - the output of the command
    print(f"# module {module}, token {TOKEN_LABEL}, PIN in {directory / 'pin'}")  # noqa: T201 - the output of the command
