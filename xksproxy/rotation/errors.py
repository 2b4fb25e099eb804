"""The error of a rotation."""


class RotationRefused(Exception):
    """The rotation is refused. The primary version does not change. ``hints`` say what to do."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.hints = hints


class VersionUnusable(RotationRefused):
    """The key of the version on a token can never be used: it is of another kind, differs, or exists twice."""
