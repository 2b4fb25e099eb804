"""The fixtures that run the command line."""

from command_support import no_variables, run

__all__ = ["no_variables", "run"]
