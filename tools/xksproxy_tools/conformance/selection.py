"""Selects checks by patterns."""

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from xksproxy_tools.conformance.check import Chapter, Check


def select(chapters: Iterable[Chapter], patterns: Iterable[str]) -> tuple[Chapter, ...]:
    """The chapters with the checks that match a pattern; all checks if there are no patterns.

    A pattern, with * and ?, matches the id of a check, the name of a chapter, or the id of a requirement.
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
