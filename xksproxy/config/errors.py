"""How a configuration is refused."""

from collections.abc import Sequence


class ConfigError(Exception):
    """The configuration cannot be used. Each problem names the file, the key's path and what was expected."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigUnreadable(ConfigError):
    """There is no configuration to judge: the file is not there or cannot be read."""
