"""The AWS CLI in forks of one interpreter that has imported it: a call takes a sixth of the processor time.

``serve NAME`` starts that interpreter; ``run NAME ARGUMENT…`` is the command ``aws``.
"""

import os
import sys

import commands


def _serve(name: str) -> None:
    import awscli.clidriver  # noqa: PLC0415 - the command does without
    import command_server  # noqa: PLC0415

    awscli.clidriver.create_clidriver()
    models = os.environ["AWS_DATA_PATH"]  # which the import has set
    command_server.serve_frozen(f"\0{name}")
    os.environ["AWS_DATA_PATH"] = models
    sys.exit(awscli.clidriver.main())


def _run(name: str, *arguments: str) -> None:
    command = commands.start_command(arguments, sys.stdout.buffer, sys.stderr.buffer, server=f"\0{name}")
    sys.exit(command.wait())


if __name__ == "__main__":
    {"serve": _serve, "run": _run}[sys.argv[1]](*sys.argv[2:])
