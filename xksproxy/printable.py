"""Escapes text from untrusted sources for a terminal."""


def printable(text: str) -> str:
    """The text on one line: what is not printable is escaped as in Python.

    Control characters (C0, C1), line and paragraph separators, characters that change the direction of text, and bytes
    that were not text could move the cursor, hide what follows or forge a line.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def printable_lines(text: str) -> str:
    """The same for a document of several lines: its line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))
