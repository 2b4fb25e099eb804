"""Shows progress on a terminal. Another thread reads it, so the load is hardly affected."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from xksproxy_tools.load.figures import percentile
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.measure import Phase

_REFRESHES_A_SECOND: Final = 2
_LATEST: Final = 2000


class _Clock(BarColumn):
    """A progress bar of elapsed time."""

    def render(self, task: Task) -> object:  # type: ignore[override]  # rich's own type is narrower than its use
        task.completed = min(task.total or 0, time.monotonic() - task.fields["began"])
        return super().render(task)


class _Latest(ProgressColumn):
    """The current rate, p99 and failures."""

    def __init__(self) -> None:
        super().__init__()
        self._before = (0.0, 0)

    def render(self, task: Task) -> Text:
        """Render the column for rich."""
        load: Load | None = task.fields["load"]
        if load is None:
            return Text()
        recording, now = load.recording, time.monotonic()
        count = len(recording)
        (then, counted), self._before = self._before, (now, count)
        rate = (count - counted) / (now - then) if counted <= count else 0.0
        first = max(0, count - _LATEST)
        latest = sorted(
            end - due for end, due in zip(recording.ended[first:count], recording.scheduled[first:count], strict=True)
        )
        p99 = 1000 * percentile(latest, 0.99) if latest else 0.0
        text = f"{count:,} done · {rate:,.0f}/s · p99 {p99:.1f} ms · {load.dispatcher.outstanding} open"
        failed = f" · {recording.failed:,} failed" if recording.failed else ""
        return Text(text).append(failed, style="bold red")


class LiveProgress:
    """Shows the current phase on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>11}"),
            _Clock(bar_width=12),
            _Latest(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=_REFRESHES_A_SECOND,
        )
        self._progress.disable = not self._progress.console.is_terminal

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, phase: Phase, seconds: float, load: Load | None) -> None:
        """Show a new phase."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._progress.add_task(phase.value, total=seconds, load=load, began=time.monotonic())
