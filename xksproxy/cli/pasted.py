"""The type of arguments and options into which people paste ids."""

from typing import Any, Final

import click

from xksproxy.spec.pasted import pasted_problem


class _Id(click.types.StringParamType):
    """An id or a name. A URL, an ARN, and blanks at either end are refused, and the message says which it is."""

    name = "text"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        text = str(value)
        if problem := pasted_problem(text):
            self.fail(f"{text!r}: {problem}", parameter, context)
        return text


ID: Final = _Id()
