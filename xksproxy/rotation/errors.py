"""The errors of a rotation."""


class RotationRefused(Exception):
    """The rotation is refused. The primary version does not change. ``hints`` say what to do."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.hints = hints


class VersionUnusable(RotationRefused):
    """The version can never be used: its key is not AES-256, differs between HSMs, or exists twice on one of them."""
