"""Run the command line by ``python -m xksproxy``."""

from xksproxy.cli.main import main

if __name__ == "__main__":
    main()
