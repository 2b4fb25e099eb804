"""The Prometheus rules and the Grafana dashboard: right in themselves, and naming what the proxy really tells."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from support import Proxy, eventually, metrics_text

from xksproxy.client.xks import XksClient
from xksproxy.server.conditions import Cause, Severity
from xksproxy.spec import errors
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.collectors import CredentialInfo, MachineCollector, MachineInfo

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RULES = PROMETHEUS / "xksproxy.rules.yml"
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "xksproxy.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

TARGET_LABELS = {"job", "instance"}
"""What Prometheus itself gives every series."""

# Each kind of answer once, with values that a healthy proxy has no cause to tell.
COUNT_ANSWERS = """
import sys; from pathlib import Path; from xksproxy.server.conditions import Severity
from xksproxy.telemetry.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
for exception in (None, *sys.argv[2:]):
    metrics.count_request(keystore="k", kms_operation="Encrypt", xks_operation="Encrypt", exception=exception,
                          seconds=1, queue_seconds=1, hsm_seconds=1)
metrics.count_decrypt("k", "key", "principal")
metrics.set_conditions([(severity.value, "cause", "k", "h") for severity in Severity])
print(metrics.render().decode())
"""


@dataclass
class Known:
    """The labels that each series is seen with, and their values."""

    labels: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    def learn(self, families: Iterable[Metric]) -> Self:
        for family in families:
            for sample in family.samples:
                labels = self.labels.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
        return self


def promtool(*arguments: str | Path) -> None:
    found = shutil.which("promtool") or Path(sys.executable).parent / "promtool"
    assert Path(found).exists(), "promtool is missing; ./dev test fetches it"
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions_of_rules() -> list[str]:
    """By the one style that the file keeps: on the line of `expr:`, or as a block below it."""
    text = RULES.read_text()
    found = re.findall(r"(?m)^ +expr: (?!\|)(.+)$|^( +)expr: \|\n((?:\2 +.*\n)+)", text)
    assert len(found) == len(re.findall(r"(?m)^ +expr:", text))
    return [line or block.strip() for line, _, block in found]


def alerts() -> Iterator[tuple[str, str]]:
    """The name and the text of each alert rule."""
    for match in re.finditer(r"(?m)^      - alert: (\w+)\n(?:^        .*\n)+", RULES.read_text()):
        yield match[1], match[0]


def recorded() -> dict[str, str]:
    """The recording rules: name and expression."""
    return {
        match[1]: match[2]
        for match in re.finditer(
            r"(?m)^      - record: (\S+)\n        expr:((?: .*\n)(?:^          .*\n)*)", RULES.read_text()
        )
    }


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """The queries of the dashboard, with the title of their panel."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target


def expressions_of_dashboard() -> list[str]:
    annotations = [item["expr"] for item in DASHBOARD["annotations"]["list"] if "expr" in item]
    return [*annotations, *(target["expr"] for _, target in targets())]


def plain(expression: str) -> str:
    """An expression of the dashboard as Prometheus gets it from Grafana."""
    for variable in ("keystore", "instance"):
        expression = expression.replace(f"${variable}", ".+")
    expression = re.sub(r"\$__(rate_interval|range)", "5m", expression)
    assert "$" not in expression
    return expression


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The series that an expression names, each with its matchers: label, operator, value."""
    for match in re.finditer(
        r"\b((?:\w+:)?xksproxy_\w+(?::\w+)?)(?:\{([^}]*)\})?", re.sub(r'"[^"]*xksproxy[^"]*"', '""', expression)
    ):
        yield match[1], re.findall(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"', match[2] or "")


def grouping_labels(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right) *\(([^)]*)\)", expression)
    return {label.strip() for names in lists for label in names.split(",") if label.strip()}


def labels_of(expression: str, known: Known) -> set[str]:
    """All labels that some series of an expression has."""
    labels = set(TARGET_LABELS)
    for name, _ in selectors(expression):
        if name in recorded():
            labels |= labels_of(recorded()[name], known)
        else:
            labels |= known.labels[name].keys()
    return labels


@pytest.fixture(scope="module")
def known(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """What a running proxy tells after a request of each kind; and what is told on occasions that are not made here."""
    metadata = {"kmsRequestId": "r", "kmsOperation": "Encrypt", "awsPrincipalArn": "a", "kmsKeyArn": "k"}
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        message = {"requestMetadata": metadata, "plaintext": "AAAA", "encryptionAlgorithm": "AES_GCM"}
        encrypted = client.call(Operation.ENCRYPT, message, "demo-key").body
        message = {"requestMetadata": metadata, "encryptionAlgorithm": "AES_GCM", **encrypted}
        assert client.call(Operation.DECRYPT, message, "demo-key").status == 200
        assert client.call(Operation.GET_KEY_METADATA, {"requestMetadata": metadata}, "demo-key").status == 200
        assert client.call(Operation.GET_HEALTH_STATUS, {"requestMetadata": metadata}).status == 200
        assert client.call(Operation.GET_KEY_METADATA, {"requestMetadata": metadata}, "no-such-key").status == 404
    # A worker publishes what it has counted twice a second.
    counted = ("xksproxy_hsm_duration_seconds_sum{", 'xks_operation="GetKeyMetadata"')
    eventually(lambda: any(all(part in line for part in counted) for line in metrics_text(proxy).splitlines()))
    known = Known().learn(text_string_to_metric_families(metrics_text(proxy)))

    directory = tmp_path_factory.mktemp("metrics")
    exceptions = [name for name in vars(errors) if name.endswith("Exception")]
    command = [sys.executable, "-c", COUNT_ANSWERS, directory, *exceptions]
    known.learn(text_string_to_metric_families(subprocess.check_output(command, text=True)))
    facts = MachineInfo((), (CredentialInfo("k", "A", 0, 0),), "name", 0)
    return known.learn(MachineCollector(facts).collect())


def test_the_rules_and_the_example_of_a_configuration_are_accepted() -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.slow
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("alert", sorted({name for name, _ in alerts()}))
def test_each_alert_is_tested_both_ways(alert: str) -> None:
    """The names of the unit tests say which alert fires or is silent; each expected severity stands in one."""
    text = "".join(path.read_text() for path in UNIT_TESTS)
    names = "".join(re.findall(r"(?m)^  - name: (.*)$", text))

    assert f"{alert} fires" in names
    assert f"{alert} is silent" in names
    for severity in (re.search(r"severity: (\w+)", rule) for name, rule in alerts() if name == alert):
        assert severity
        assert f'alertname="{alert}", severity="{severity[1]}"' in text


@pytest.mark.parametrize(("alert", "rule"), list(alerts()))
def test_each_alert_tells_what_to_do(alert: str, rule: str) -> None:
    assert re.search(r"(?m)^          severity: (critical|warning|info)$", rule)
    for annotation in ("summary", "description", "runbook_url"):
        assert re.search(rf"(?m)^          {annotation}: \S", rule), annotation


def test_runbook_links_lead_somewhere() -> None:
    links = re.findall(r"runbook_url: docs/troubleshooting\.md#(.+)\n", RULES.read_text())
    assert len(re.findall("runbook_url:", RULES.read_text())) == len(links) == len(list(alerts()))
    of_causes = [template.replace("{{ $labels.cause }}", cause) for template in links for cause in Cause]

    headings = re.findall(r"(?m)^#+ (.+)$", (REPOSITORY / "docs" / "troubleshooting.md").read_text())
    there = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(of_causes) <= there


def test_each_condition_has_a_section_that_says_what_to_do_and_an_alert_that_leads_to_it() -> None:
    guide = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    sections = dict(re.findall(r"(?ms)^#### Cause `(.+?)`\n(.*?)(?=^#)", guide))

    assert sections.keys() == {*Cause}
    for cause, section in sections.items():
        items = re.findall(r"(?m)^- ([A-Z][A-Za-z ]+): \S", section)
        assert items == ["Means", "KMS callers see", "What to do", "Over"], cause
    for severity in Severity:
        found = [
            rule
            for _, rule in alerts()
            if f'expr: max by (job, instance, cause, keystore, hsm) (xksproxy_conditions{{severity="{severity}"}}) > 0'
            in rule
            and "#cause-{{ $labels.cause }}" in rule
        ]
        assert len(found) == 1, severity


@pytest.mark.parametrize(
    "expression",
    [*expressions_of_rules(), *map(plain, expressions_of_dashboard())],
    ids=lambda text: text.split("{")[0],
)
def test_expressions_name_series_labels_and_values_that_exist(expression: str, known: Known) -> None:
    for name, matchers in selectors(expression):
        if name in recorded():
            assert not matchers
            continue
        assert name in known.labels
        for label, operator, value in matchers:
            assert label in known.labels[name].keys() | TARGET_LABELS, name
            if label in ("state", "error_type", "exception", "xks_operation") and value:
                values = value.split("|") if operator in ("=~", "!~") else [value]
                assert set(values) <= known.labels[name][label], name

    assert grouping_labels(expression) <= labels_of(expression, known)


def test_texts_of_alerts_use_labels_that_the_alert_has(known: Known) -> None:
    for alert, rule in alerts():
        head, _, texts = rule.partition("labels:")
        used = set(re.findall(r"\$labels\.(\w+)", texts))
        assert used <= labels_of(head, known), alert
        # What an aggregation leaves: by the outermost grouping of the alert itself, or of what it takes from a record.
        sources = [recorded().get(name, head) for name, _ in selectors(head)] or [head]
        kept = [set(match[1].replace(" ", "").split(",")) for match in re.finditer(r"\bby \(([^)]*)\)", sources[0])]
        assert not kept or used <= kept[0], alert


def test_legends_use_labels_that_the_query_leaves(known: Known) -> None:
    for title, target in targets():
        used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert used <= grouping_labels(target["expr"]), title


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": plain(text)} for number, text in enumerate(expressions_of_dashboard())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML, too

    promtool("check", "rules", path)


def test_the_dashboard_has_its_variables_and_everything_uses_its_data_source() -> None:
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "keystore"]
    assert variables["datasource"]["type"] == "datasource"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen, panel["title"]
            assert all(target["datasource"] == chosen for target in panel["targets"]), panel["title"]


def test_variables_ask_for_series_that_exist(known: Known) -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
        assert match
        assert match[2] in known.labels[match[1]].keys() | TARGET_LABELS


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    cells: list[set[tuple[int, int]]] = []
    for panel in PANELS:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        assert x >= 0, panel["title"]
        assert x + w <= 24, panel["title"]
        cells.append({(column, line) for column in range(x, x + w) for line in range(y, y + h)})
    assert not any(one & other for one, other in combinations(cells, 2))


def test_each_row_of_the_dashboard_fits_on_a_screen() -> None:
    starts = [panel["gridPos"]["y"] for panel in PANELS if panel["type"] == "row"]
    end = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS)
    assert all(after - before <= 20 for before, after in zip(starts, [*starts[1:], end], strict=True))


def test_panels_say_what_they_show_in_which_unit_and_what_an_empty_one_means() -> None:
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        overridden = [each["id"] for item in panel["fieldConfig"]["overrides"] for each in item["properties"]]
        heat_map = panel["options"].get("yAxis", {})
        assert "unit" in panel["fieldConfig"]["defaults"] or "unit" in overridden or "unit" in heat_map, panel["title"]
