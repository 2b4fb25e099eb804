"""Whether the state directory may be older than it was, as one worker sees it."""

from pathlib import Path

from xksproxy.state.doubt import Doubt, begin_doubt, keep_doubt, text_of
from xksproxy.state.state_file import StateUnusable, StateWentBack
from xksproxy.state.state_number import StateNumber


class StateDoubt:
    """Follows the mark of a doubt, and sets it if the number of the directory goes back while the proxy runs.

    A doubt is settled while no proxy runs. So a mark that vanishes is set again.
    """

    def __init__(self, state_directory: Path, least_number: int) -> None:
        """``least_number`` is a number that the directory has had while the proxy ran; -1 if none is known."""
        self.number = StateNumber(state_directory, least_number)
        """The number of the directory."""
        self._directory = state_directory
        self._marked = ""
        self._mark: Doubt | None = None
        """The mark that was read last."""
        self._went_back = ""

    @property
    def reason(self) -> str:
        """Why the directory is in doubt; empty if it is not."""
        return self._marked or self._went_back

    def follow(self) -> None:
        """Look at the number and the mark again. It waits for the disk."""
        try:
            self.number.follow()
        except StateWentBack as error:
            if not self._went_back:
                what = "files of the state directory were removed or replaced by older ones while the proxy ran"
                self._went_back = begin_doubt(self._directory, f"{what}: {error}")
        except StateUnusable:
            pass  # what needs the file reports it
        try:
            self._mark = keep_doubt(self._directory, self._mark)
        except StateUnusable as error:
            self._marked = str(error)
        else:
            self._marked = "" if self._mark is None else text_of(self._mark)
