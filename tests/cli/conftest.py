"""The fixtures that run the command line."""

from command_support import into_closed_pipe, no_variables, run, spawn

__all__ = ["into_closed_pipe", "no_variables", "run", "spawn"]
