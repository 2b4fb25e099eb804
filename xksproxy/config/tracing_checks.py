"""Checks of ``[tracing]``."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from xksproxy.config.model import Tracing

_PACKAGES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def tracing_problems(tracing: Tracing) -> Iterator[str]:
    """Why traces cannot be sent as the configuration says."""
    if tracing.endpoint is None:
        return
    if not _is_web_url(tracing.endpoint):
        yield "tracing.endpoint: it is no http or https URL, such as http://127.0.0.1:4318/v1/traces"
    if not all(map(_is_installed, _PACKAGES)):
        yield 'tracing.endpoint: OpenTelemetry is not installed; run: pip install "xksproxy[otel]"'


def _is_web_url(text: str) -> bool:
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
