"""A scenario on real servers, so short that only what it does is seen and not how fast it is."""

from pathlib import Path

import pytest

from benchmarks.results import Sample
from benchmarks.scenarios import overhead
from benchmarks.tokens import Tokens, prepared
from benchmarks.workbench import Workbench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return prepared(tmp_path_factory.mktemp("bench"), counts=(1,))


def test_the_baseline_and_the_proxy_answer_in_every_round(tmp_path: Path, tokens: Tokens) -> None:
    heard: list[Sample] = []
    workbench = Workbench(tokens, tmp_path / "servers", 0.01, [], heard.append)

    finding = overhead.SCENARIO.run(workbench)

    assert finding.samples == heard
    assert [sample.variant for sample in heard] == ["baseline", "xksproxy"] * 2
    for sample in heard:
        assert sample.requests > sample.failed
        assert sample.wrong == {}
        assert sample.server_cpu > 0
    assert len(finding.tables[0].rows) == 2
