"""Why a rotation stops."""


class RotationRefused(Exception):
    """The rotation cannot go on. What encrypted before goes on encrypting; ``hints`` say what to do."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.hints = hints
