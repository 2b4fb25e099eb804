"""Shows the progress of a run on a terminal."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from xksproxy_tools.conformance.check import Level
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.runner import Result


def show_progress(results: Iterable[Result], total: int, console: Console) -> Iterator[Result]:
    """Yield the results; show a progress bar and each failure, if the console is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for result in results:
            if result.outcome is Outcome.FAILED and console.is_terminal:
                style = "bold red" if result.check.level is Level.MUST else "yellow"
                progress.console.print(Text(f"{result.check.level.value} failed: {result.check.title}", style))
            progress.update(task, advance=1, description=f"{result.chapter.title}: {result.check.title}")
            yield result
