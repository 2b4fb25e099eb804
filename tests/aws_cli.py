"""The AWS CLI in forks of one interpreter that has imported it: a call takes a sixth of the processor time.

The argument is the name of the server; :mod:`commands` runs a command of it.
"""

import os
import sys

import awscli.clidriver
import command_server

if __name__ == "__main__":
    awscli.clidriver.create_clidriver()
    models = os.environ["AWS_DATA_PATH"]  # which the import has set
    command_server.serve_frozen(f"\0{sys.argv[1]}")
    os.environ["AWS_DATA_PATH"] = models
    sys.exit(awscli.clidriver.main())
