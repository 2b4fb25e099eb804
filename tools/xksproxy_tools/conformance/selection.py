"""Choosing among the checks."""

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from xksproxy_tools.conformance.check import Chapter, Check


def select(chapters: Iterable[Chapter], patterns: Iterable[str]) -> tuple[Chapter, ...]:
    """The chapters with the checks that one of some patterns names, all if there is none.

    A pattern, with * and ?, is one of a check's id, of a chapter's name, or of a requirement's id.
    """
    patterns = tuple(patterns)
    chosen = [
        replace(chapter, checks=tuple(check for check in chapter.checks if _named(chapter, check, patterns)))
        for chapter in chapters
    ]
    return tuple(chapter for chapter in chosen if chapter.checks)


def _named(chapter: Chapter, check: Check, patterns: tuple[str, ...]) -> bool:
    names = (chapter.name, check.id, *check.requirements)
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
