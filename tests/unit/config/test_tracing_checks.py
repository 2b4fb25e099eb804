"""An endpoint for traces that cannot be used is refused before anything starts."""

import importlib.machinery

import pytest

from xksproxy.config import tracing_checks
from xksproxy.config.model import Tracing
from xksproxy.config.tracing_checks import tracing_problems


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:4318/v1/traces", "https://collector.example/v1/traces"])
def test_no_endpoint_or_the_url_of_a_collector_is_accepted(endpoint: str | None) -> None:
    assert list(tracing_problems(Tracing(endpoint=endpoint))) == []


@pytest.mark.parametrize("endpoint", ["collector:4317", "127.0.0.1:4318", "grpc://a:1", "http://", "http://[", "x"])
def test_what_is_no_url_is_refused(endpoint: str) -> None:
    (problem,) = tracing_problems(Tracing(endpoint=endpoint))

    assert problem.startswith("tracing.endpoint: it is no http or https URL")


def test_a_missing_package_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> importlib.machinery.ModuleSpec | None:
        if "otlp" in name:
            raise ModuleNotFoundError(name)
        return importlib.machinery.ModuleSpec(name, None)

    monkeypatch.setattr(tracing_checks, "find_spec", find)

    (problem,) = tracing_problems(Tracing(endpoint="http://127.0.0.1:4318"))
    assert 'pip install "xksproxy[otel]"' in problem
    assert list(tracing_problems(Tracing())) == []
