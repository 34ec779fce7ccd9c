"""Scenarios: those that ship are played by a right Receiver, and a wrong one fails where it should."""

import pytest

from sandbox.options import Options
from sandbox.scenario import Scenario, WrongScenario, find, parse, shipped
from sandbox.server import Sandbox
from tests.sandbox.endpoint import Endpoint
from tests.sandbox.receivers import AcceptsTwice, Answers500, OnlyAccepts, RightReceiver

OURS = [parse(path.stem, path.read_text()) for path in shipped()]
PACE = 0.1
DELAYS = (0.0, 0.02, 0.02)


@pytest.mark.parametrize("scenario", OURS, ids=[s.name for s in OURS])
async def test_a_right_receiver_plays_every_shipped_scenario_to_its_end(scenario: Scenario) -> None:
    async with Sandbox(Options(attempt_delays=DELAYS)) as sandbox, OnlyAccepts(sandbox) as acme, Endpoint() as birch:
        sandbox.add_receiver("birch", birch.url)
        outcomes = await sandbox.play(scenario, PACE)
        await acme.idle()
    assert [f"{o.step.sentence}: {o.seen}" for o in outcomes if not o.ok] == []
    assert len(outcomes) == len(scenario.steps)


def test_a_dozen_scenarios_ship_and_each_says_what_a_receiver_should_do() -> None:
    assert len(OURS) >= 12
    assert all("A Receiver" in scenario.about.replace("\n", " ") for scenario in OURS)


@pytest.mark.parametrize(
    ("kind", "name"), [(AcceptsTwice, "walk"), (Answers500, "walk")], ids=["accepts twice", "answers 500"]
)
async def test_a_wrong_receiver_fails_and_the_step_says_what_was_seen(kind: type[RightReceiver], name: str) -> None:
    scenario = parse(name, find(name).read_text().replace("within = 10", ""))
    quick = tuple(
        s if s.verb != "webhook" else type(s)(s.kind, s.verb, {**s.words, "within": 0.5}) for s in scenario.steps
    )
    async with Sandbox(Options(attempt_delays=(0.0,))) as sandbox, kind(sandbox, "acme") as receiver:
        sandbox.add_receiver("birch")
        outcomes = await sandbox.play(type(scenario)(scenario.name, scenario.about, quick), PACE)
        await receiver.idle()
    assert not outcomes[-1].ok
    assert outcomes[-1].seen


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("about = 'x'", "[[steps]]"),
        ("[[steps]]\ndo = 'create'", "`about` is missing"),
        ("about = 'x'\n[[steps]]\ndo = 'fly'", "step 1: no such step: fly"),
        ("about = 'x'\n[[steps]]\ndo = 'create'\ncolour = 1", "step 1: create has no word colour"),
        ("about = 'x'\n[[steps]]\nexpect = 'call'\ndo = 'create'", "step 1: a step has either"),
        ("about = 'x'\n[[steps]]\ndo = 'trouble'\nsettings = {loose = 1}", "no such trouble: loose"),
        ("about = 'x'\n[[steps]]\ndo = 'send'\nmalformed = 'odd'", "no such malformed body: odd"),
        ("about = ", "Invalid value"),
    ],
)
def test_a_scenario_that_cannot_be_played_says_why(text: str, problem: str) -> None:
    with pytest.raises(WrongScenario) as wrong:
        parse("wrong", text)
    assert problem in str(wrong.value)


async def test_a_step_that_names_what_is_not_there_fails_with_its_reason() -> None:
    scenario = parse("odd", "about = 'x'\n[[steps]]\ndo = 'cancel'\nrequest = 'trip'")
    async with Sandbox() as sandbox:
        sandbox.add_receiver("acme")
        (outcome,) = await sandbox.play(scenario)
    assert (outcome.ok, outcome.seen) == (False, "no request is called 'trip' here")


def test_a_scenario_that_is_nowhere_names_those_that_ship() -> None:
    with pytest.raises(WrongScenario, match="lost-race"):
        find("nowhere")
