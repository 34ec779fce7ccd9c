"""Scenarios: a TOML file of steps and expectations, read and checked here, played by `sandbox.stage`.

about = "What happens, and what a Receiver should do."
[[steps]]
do = "create"               # one of STEPS; its words are the other keys
name = "trip"
kind = "bls"
[[steps]]
do = "broadcast"
request = "trip"
to = ["first"]              # the sandbox's Receivers in their order: first, second, …
[[steps]]
expect = "call"             # one of EXPECTATIONS
call = "accept"
request = "trip"
status = 201
within = 10                 # seconds
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sandbox.deeds import receivers_in
from sandbox.malformed import MALFORMED
from sandbox.trouble import Trouble

PLACES = ("first", "second", "third")
"""How a scenario calls the sandbox's Receivers, in the order in which they were added."""

SHIPPED = Path(__file__).parent / "scenarios"

STEPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "create": ("name", "kind", "data", "lead_minutes"),
        "return_leg": ("request", "name"),
        "broadcast": ("request", "to"),
        "competitor": ("request",),
        "cancel": ("request",),
        "withdraw": ("request", "from"),
        "assign": ("request", "to"),
        "expire": ("request",),
        "complete": ("request",),
        "change": ("request", "data"),
        "proposal": ("request", "receiver", "answer", "time"),
        "change_answer": ("request", "receiver", "accepted"),
        "accept_by_hand": ("request", "receiver"),
        "decline_by_hand": ("request", "receiver"),
        "redeliver": ("request", "receiver", "action"),
        "send": ("receiver", "malformed"),
        "forge": ("request", "receiver", "action"),
        "plan": ("what", "match", "receiver", "times", "seconds", "status"),
        "trouble": ("receiver", "settings"),
        "rotate_key": ("receiver",),
        "expire_tokens": ("receiver",),
        "many": ("number", "kind", "to"),
        "idle": ("within",),
        "pause": ("seconds",),
    }
)
"""What can be done, and with which words."""

EXPECTATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "call": ("call", "request", "receiver", "status", "answered", "times", "within"),
        "no_call": ("call", "request", "receiver", "within"),
        "webhook": ("request", "receiver", "action", "status", "response", "cause", "signed", "times", "within"),
        "request": ("request", "stage", "assigned_to", "accepts_taken", "within"),
        "right": ("grace",),
    }
)
"""What can be expected, and with which words. `within` is seconds, 10 unless given."""


class WrongScenario(Exception):
    """A scenario that can't be played; `problems` has a sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `kind` is `do` or `expect`."""

    kind: str
    verb: str
    words: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The step in one line."""
        words = " ".join(f"{name}={value}" for name, value in self.words.items())
        return f"{self.kind} {self.verb} {words}".strip()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario that was read and is well-formed."""

    name: str
    about: str
    steps: tuple[Step, ...]

    @property
    def receivers(self) -> int:
        """How many Receivers it needs."""
        named = [name for step in self.steps for name in receivers_in(step.words)]
        return max((PLACES.index(name) + 1 for name in named if name in PLACES), default=1)


def _problems_of(number: int, raw: Mapping[str, Any]) -> list[str]:
    where = f"step {number}"
    kinds = [kind for kind in ("do", "expect") if kind in raw]
    if len(kinds) != 1:
        return [f"{where}: a step has either `do` or `expect`"]
    known = STEPS if kinds[0] == "do" else EXPECTATIONS
    verb = raw[kinds[0]]
    if verb not in known:
        return [f"{where}: no such step: {verb}"]
    unknown = sorted(set(raw) - {kinds[0]} - set(known[verb]))
    problems = [f"{where}: {verb} has no word {name}" for name in unknown]
    if verb == "trouble":
        try:
            Trouble.of(raw.get("settings", {}))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if verb == "send" and raw.get("malformed") not in MALFORMED:
        problems.append(f"{where}: no such malformed body: {raw.get('malformed')}")
    return problems


def parse(name: str, text: str) -> Scenario:
    """A scenario from TOML. Raises WrongScenario with all its problems."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongScenario([str(error)]) from None
    steps = raw.get("steps")
    problems = [f"no such part: {part}" for part in sorted(set(raw) - {"about", "steps"})]
    if not isinstance(raw.get("about"), str):
        problems.append("`about` is missing")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not steps:
        raise WrongScenario([*problems, "`[[steps]]` are missing"])
    for number, step in enumerate(steps, start=1):
        problems += _problems_of(number, step)
    if problems:
        raise WrongScenario(problems)
    return Scenario(name, raw["about"].strip(), tuple(_step(step) for step in steps))


def _step(raw: Mapping[str, Any]) -> Step:
    kind = "do" if "do" in raw else "expect"
    return Step(kind, raw[kind], {name: value for name, value in raw.items() if name != kind})


def shipped() -> list[Path]:
    """The scenarios that come with the sandbox, by name."""
    return sorted(SHIPPED.glob("*.toml"))


def find(name: str) -> Path:
    """A file, or a shipped scenario by its name. Raises WrongScenario."""
    path = Path(name)
    if path.exists():
        return path
    ours = SHIPPED / f"{name.removesuffix('.toml')}.toml"
    if ours.exists():
        return ours
    raise WrongScenario([f"no such scenario: {name}; there are {', '.join(p.stem for p in shipped())}"])
