"""Alert rules and dashboard: what they name exists, and Prometheus' own tool sees each alert fire, and not fire."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from shared import metrics, topics
from worker.assignment import Answered, State

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "monitoring/alerts.yaml"
GROUPS: Final = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: Final[Mapping[str, dict[str, Any]]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
DASHBOARD: Final = json.loads((ROOT / "monitoring/grafana/receiver.json").read_text())
PROMTOOL: Final = shutil.which("promtool")
LABELS_OF_PROMETHEUS: Final = {"le", "instance"}

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (make services)")


@dataclass(frozen=True, slots=True)
class Case:
    """Series by which an alert fires at `at` with `labels`, and series by which it does not."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    at: str = "30m"
    labels: Mapping[str, str] = field(default_factory=dict)


ACME: Final = {"customer": "acme"}
WEBHOOKS: Final = 'receiver_webhooks_total{customer="acme",action="BROADCAST_RECEIVED",answer="%s",instance="a"}'
REFUSED: Final = 'receiver_webhooks_refused_total{customer="acme",why="wrong_key",keys="ab12",instance="a"}'
PARKED: Final = 'receiver_events_parked_total{customer="acme",reason="unexpected_error",instance="a"}'
TOKENS: Final = 'receiver_token_requests_total{customer="acme",answer="%s",instance="a"}'
OUTCOMES: Final = 'receiver_outcomes_total{customer="acme",state="%s",instance="a"}'
CALLS: Final = 'receiver_api_calls_total{customer="acme",call="accept",answer="%s",instance="a"}'
ALIVE: Final = 'receiver_consumer_alive{queue="%s",instance="a"}'
QUEUES: Final = (topics.BROADCAST_RECEIVED, topics.BROADCAST_ACCEPTED, topics.LIFECYCLE, topics.DEAD_LETTERS)
ALL_ALIVE: Final = {ALIVE % queue: "1x60" for queue in QUEUES}


def slow(name: str, bound: float, labels: str = "") -> dict[str, str]:
    """A histogram of which everything lies above `bound`, six a minute."""
    more = f",{labels}" if labels else ""
    return {
        f'{name}_bucket{{le="{bound:g}"{more}}}': "0x60",
        f'{name}_bucket{{le="{bound * 2:g}"{more}}}': "0+6x60",
        f'{name}_bucket{{le="+Inf"{more}}}': "0+6x60",
        name + "_count" + (f"{{{labels}}}" if labels else ""): "0+6x60",
    }


def fast(name: str, bound: float, labels: str = "") -> dict[str, str]:
    """The same, of which everything lies below."""
    more = f",{labels}" if labels else ""
    return {**slow(name, bound, labels), f'{name}_bucket{{le="{bound:g}"{more}}}': "0+6x60"}


CASES: Final[Mapping[str, Case]] = {
    "ReceiverIngressMissing": Case(
        {'receiver_build_info{part="worker"}': "1x60"}, {'receiver_build_info{part="ingress"}': "1x60"}, labels={}
    ),
    "ReceiverWebhooksRefused": Case(
        {WEBHOOKS % "unavailable": "_x27 1x10"}, {WEBHOOKS % "unavailable": "7x60", WEBHOOKS % "accepted": "0+9x60"}
    ),
    "ReceiverWebhooksSlow": Case(slow("receiver_webhook_seconds", 2), fast("receiver_webhook_seconds", 2)),
    "ReceiverSignatureFailures": Case({REFUSED: "_x25 3x10"}, {REFUSED: "40x60"}, labels=ACME),
    "ReceiverNoWebhooks": Case(
        {WEBHOOKS % "accepted": "0+1x120 _x20000"},
        {WEBHOOKS % "accepted": "0+1x20000"},
        at="10140m",  # a week and an hour
        labels=ACME,
    ),
    "ReceiverSpoolNotEmpty": Case(
        {'receiver_spool_oldest_seconds{instance="a"}': "0+60x60"},
        {'receiver_spool_oldest_seconds{instance="a"}': "0 30 0x60"},
        labels={"instance": "a"},
    ),
    "ReceiverConsumerMissing": Case(
        {**ALL_ALIVE, ALIVE % topics.LIFECYCLE: "0x60"},
        {**ALL_ALIVE, f'receiver_consumer_alive{{queue="{topics.LIFECYCLE}",instance="b"}}': "0x60"},
        labels={"queue": topics.LIFECYCLE},
    ),
    "ReceiverBrakeOn": Case(
        {f'receiver_brake{{queue="{topics.LIFECYCLE}"}}': "1x60"},
        {f'receiver_brake{{queue="{topics.LIFECYCLE}"}}': "0x60"},
        labels={"queue": topics.LIFECYCLE},
    ),
    "ReceiverWorkersBehind": Case(
        slow("receiver_queue_wait_seconds", 10, f'queue="{topics.LIFECYCLE}"'),
        fast("receiver_queue_wait_seconds", 10, f'queue="{topics.LIFECYCLE}"'),
        labels={"queue": topics.LIFECYCLE},
    ),
    "ReceiverTimeToAcceptSlow": Case(
        slow("receiver_time_to_accept_seconds", 1), fast("receiver_time_to_accept_seconds", 1)
    ),
    "ReceiverLostRaces": Case(
        {OUTCOMES % "lost": "0+1x120", OUTCOMES % "accepting": "0+1x120"},
        {OUTCOMES % "lost": "0+1x120", OUTCOMES % "accepting": "0+9x120"},
        at="110m",
        labels=ACME,
    ),
    "ReceiverEventsParked": Case(
        {PARKED: "_x25 1x10"}, {PARKED: "12x60"}, labels={**ACME, "reason": "unexpected_error"}
    ),
    "ReceiverCustomersDisabled": Case({"receiver_customers_disabled": "1x60"}, {"receiver_customers_disabled": "0x60"}),
    "ReceiverTokenRefused": Case(
        {TOKENS % "refused": "_x25 2x10"}, {TOKENS % "refused": "5x60", TOKENS % "given": "0+1x60"}, labels=ACME
    ),
    "ReceiverApiFailing": Case(
        {CALLS % "unknown": "0+1x60", CALLS % "taken": "0+1x60"},
        {CALLS % "gone": "0+1x60", CALLS % "taken": "0+1x60"},
        labels=ACME,
    ),
    "ReceiverUnconfirmedTrips": Case(
        {'receiver_unconfirmed_trips{customer="acme",instance="a"}': "2x60"},
        {'receiver_unconfirmed_trips{customer="acme",instance="a"}': "0x60"},
        labels=ACME,
    ),
    "ReceiverUnacknowledgedTrips": Case(
        {'receiver_unacknowledged{customer="acme",instance="a"}': "1x60"},
        {'receiver_unacknowledged{customer="acme",instance="a"}': "0x60"},
        labels=ACME,
    ),
    "ReceiverOutcomesNotPublished": Case(
        {'receiver_outbox_oldest_seconds{instance="a"}': "0+60x60"},
        {'receiver_outbox_oldest_seconds{instance="a"}': "2x60"},
    ),
}


def check(rule: str, case: Case, series: Mapping[str, str], *, fires: bool, folder: Path) -> None:
    """promtool's verdict about one alert at one time."""
    expected = [{"exp_labels": {**case.labels, **ALERTS[rule]["labels"]}}] if fires else []
    # Summaries are not compared: they are words. promtool compares all annotations, so it gets rules without.
    bare = [{"name": "rules", "rules": [{k: v for k, v in ALERTS[rule].items() if k != "annotations"}]}]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": bare}))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": case.at, "alertname": rule, "exp_alerts": expected}],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("rule", CASES)
def test_an_alert_fires_for_its_cause_and_not_without_it(rule: str, tmp_path: Path) -> None:
    case = CASES[rule]
    check(rule, case, case.fires, fires=True, folder=tmp_path)
    check(rule, case, case.quiet, fires=False, folder=tmp_path)


@needs_promtool
def test_the_rules_are_rules_by_prometheus_own_word() -> None:
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, capture_output=True)


def test_every_alert_has_a_case_and_a_place_in_the_runbook() -> None:
    assert CASES.keys() == ALERTS.keys()
    runbook = (ROOT / "docs/runbook.md").read_text()
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert f"\n## {name}\n" in runbook
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(re.findall(r"^## (Receiver\w+)$", runbook, re.MULTILINE)) == ALERTS.keys()


def test_kubernetes_and_prometheus_have_the_same_rules() -> None:
    rule = yaml.safe_load((ROOT / "monitoring/prometheus-rule.yaml").read_text())
    assert rule["spec"]["groups"] == GROUPS, "make rules"


def ours() -> dict[str, tuple[str, set[str]]]:
    """Our metrics' families: the type and the labels of each."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            found[family.name] = family.type, set(metric._labelnames)
    return found


def family_of(name: str, families: Mapping[str, tuple[str, set[str]]]) -> str | None:
    for suffix in ("", "_total", "_bucket", "_count", "_sum"):
        stem = name.removesuffix(suffix)
        kinds = {"": "gauge", "_total": "counter"}
        if stem in families and name.endswith(suffix) and families[stem][0] == kinds.get(suffix, "histogram"):
            return stem
    return None


def expressions() -> Iterator[tuple[str, str]]:
    for name, rule in ALERTS.items():
        yield name, rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize(("place", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_every_metric_and_label_that_is_named_exists(place: str, expression: str) -> None:
    families = ours()
    labels: set[str] = set()
    named = re.findall(r"(receiver_\w+)(?:\{(.*?)\})?", expression)
    assert named
    for name, matchers in named:
        family = family_of(name, families)
        assert family is not None, f"{place}: there is no {name}"
        there = families[family][1]
        labels |= there
        assert set(re.findall(r"(\w+)[=!]~?\"", matchers)) <= there, f"{place}: {name}"
    for group in re.findall(r"by \((.*?)\)", expression):
        assert set(group.split(", ")) <= labels | LABELS_OF_PROMETHEUS, place


def test_values_that_the_rules_ask_for_are_ones_that_we_write() -> None:
    asked = {
        label: {word for text in re.findall(rf'{label}=~?"(.*?)"', RULES.read_text()) for word in text.split("|")}
        for label in ("state", "answer", "queue")
    }
    assert asked["state"] <= {state.value for state in State}
    answers = {answer.value for answer in Answered} | {"accepted", "unavailable", "refused"}
    assert asked["answer"] <= answers
    assert asked["queue"] == set(QUEUES)


def test_the_dashboard_has_a_panel_for_each_of_our_metrics() -> None:
    shown = " ".join(expression for _, expression in expressions())
    left_out = {"receiver_spooled", "receiver_spool_forwarded"}  # the spool's depth and age say it
    for name in ours().keys() - left_out:
        assert re.search(rf"\b{name}(_total|_bucket)?\b", shown), name
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
