"""The types of arguments and options into which people paste ids, hosts, paths and Regions."""

import re
from collections.abc import Callable
from typing import Any, Final

import click

from xksproxy.spec.pasted import (
    pasted_host_problem,
    pasted_prefix_problem,
    pasted_problem,
    pasted_region_problem,
    wrapping_problem,
)
from xksproxy.spec.uri import BASE_PATH, is_key_id, prefix_problem

_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]\"']+)(?::(?P<port>[0-9]{1,5}))?")
_MAXIMUM_PORT: Final = 65535
_REGION: Final = re.compile(r"[a-z0-9-]+")
_KMS_KEY_ARN: Final = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")


class _Pasted(click.types.StringParamType):
    """Text for which there is a function that says what is wrong with it, or None."""

    name = "text"

    def __init__(self, problem_of: Callable[[str], str | None]) -> None:
        self._problem_of = problem_of

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        text = str(value)
        if problem := self._problem_of(text):
            self.fail(f"{text!r}: {problem}", parameter, context)
        return text


def _key_id_problem(text: str) -> str | None:
    if problem := pasted_problem(text):
        return problem
    return None if is_key_id(text) else "expected 1 to 128 characters of A-Z a-z 0-9 - . _"


def _prefix_problem(text: str) -> str | None:
    """The slashes around a prefix do not matter."""
    path = f"/{text.strip('/')}" if text.strip("/") else ""
    if BASE_PATH not in path and prefix_problem(path) is None:
        return None
    return pasted_prefix_problem(text) or prefix_problem(path)


def _host_problem(text: str) -> str | None:
    if problem := pasted_host_problem(text):
        return problem
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 1) <= _MAXIMUM_PORT:
        return "expected a host or host:port, such as xks.example.com or localhost:8443"
    return None


def region_problem(text: str) -> str | None:
    """What is wrong with a Region, and what to write instead."""
    if problem := pasted_region_problem(text):
        return problem
    return None if _REGION.fullmatch(text) else "it is not a Region; expected the form of eu-west-1"


def _principal_problem(text: str) -> str | None:
    if problem := wrapping_problem(text):
        return problem
    if text.isdigit() or ("/" in text and not text.startswith("arn:")):
        return "expected an ARN such as arn:aws:iam::123456789012:user/Alice, or a service principal"
    return None


def _kms_key_arn_problem(text: str) -> str | None:
    if problem := wrapping_problem(text):
        return problem
    if _KMS_KEY_ARN.fullmatch(text):
        return None
    return "expected the ARN of a KMS key, such as arn:aws:kms:eu-west-1:123456789012:key/1234abcd-…, not of an alias"


ID: Final = _Pasted(pasted_problem)
KEY_ID: Final = _Pasted(_key_id_problem)
PREFIX: Final = _Pasted(_prefix_problem)
HOST: Final = _Pasted(_host_problem)
REGION: Final = _Pasted(region_problem)
PRINCIPAL: Final = _Pasted(_principal_problem)
KMS_KEY_ARN: Final = _Pasted(_kms_key_arn_problem)
