"""Errors of the configuration."""

from collections.abc import Sequence


class ConfigError(Exception):
    """The configuration cannot be used. Each problem names the file, the path of the key and what was expected."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigUnreadable(ConfigError):
    """The configuration file does not exist or cannot be read."""
