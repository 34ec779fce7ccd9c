"""The rules at work: asked in order, each with what came of it, until one decides. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from zoneinfo import ZoneInfo

import cel

from worker.expression import GUARDS, LONGEST_LOOP, BadExpression, Expression, Path
from worker.facts import NOTHING_KNOWN, Facts
from worker.policy.decision import Decision, Reason, Verdict, held
from worker.policy.offer import Offer, pickup_time
from worker.policy.variables import FROM_STORE, VARIABLES, Tables, variables


@dataclass(frozen=True, slots=True)
class Deadline:
    """A hold that nobody has answered within `seconds` becomes `then_after`."""

    seconds: float
    then_after: Verdict


@dataclass(frozen=True, slots=True)
class Proposal:
    """Which time a rule proposes: so many minutes after the pickup (before it, if negative), or from now."""

    minutes: float
    from_now: bool = False

    def at(self, pickup: datetime | None, now: float) -> datetime | None:
        """The time, UTC; None where the pickup is not known or the sum is no time."""
        try:
            start = datetime.fromtimestamp(now, UTC) if self.from_now else pickup
            return start.astimezone(UTC) + timedelta(minutes=self.minutes) if start else None
        except (OverflowError, ValueError):  # in the year 1 or 9999
            return None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to run."""

    name: str
    when: Expression
    then: Verdict
    notes: str | None = None
    skips_unknown: bool = False
    tags: tuple[str, ...] = ()
    deadline: Deadline | None = None
    proposal: Proposal | None = None


class Went(StrEnum):
    """What became of asking one rule."""

    MATCHED = "matched"
    DID_NOT_MATCH = "did not match"
    SKIPPED = "skipped"
    UNDECIDED = "undecided"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule that was asked. `why` names the unknown field or the error; it holds no values."""

    rule: str
    went: Went
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and the rules that were asked on the way to it; the last of them decided, if any did."""

    decision: Decision
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A customer's rules, ready to run. `asks` says which of the store's variables any rule reads; the store need not
    be asked for more. `other_leg_seconds` is how long to wait for the other leg of a round trip, 0: not at all."""

    tables: Tables
    default: Verdict
    rules: tuple[Rule, ...] = ()
    deadline: Deadline | None = None
    trip_minutes: float = 90
    other_leg_seconds: float = 0
    reads: frozenset[Path] = field(init=False)
    asks: frozenset[str] = field(init=False)
    _names: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reads = frozenset(path for rule in self.rules for path in rule.when.reads)
        names = frozenset(path[0] for path in reads)
        object.__setattr__(self, "reads", reads)
        object.__setattr__(self, "asks", names & FROM_STORE)
        object.__setattr__(self, "_names", names)

    @property
    def timezone(self) -> ZoneInfo:
        """In which `local`, days and hours are meant."""
        return self.tables.timezone

    def level(self, data: Mapping[str, Any] | None) -> str | None:
        """The level of service of a request, in this policy's words; None where it is not known."""
        return self.tables.levels.of(data)

    def decide(self, event: Offer, now: float, facts: Facts = NOTHING_KNOWN) -> Decision:
        """What to do with the offer in `event` at `now` (Unix seconds)."""
        return self.explain(event, now, facts).decision

    def variables(self, event: Offer, now: float, facts: Facts = NOTHING_KNOWN) -> dict[str, Any]:
        """All variables as the rules would read them; of `request` and `lists`, what some rule reads (PHI)."""
        return variables(self.tables, event, now, facts, self.reads, VARIABLES)

    def explain(self, event: Offer, now: float, facts: Facts = NOTHING_KNOWN) -> Explanation:
        """The decision, and how it came about."""
        values = variables(self.tables, event, now, facts, self.reads, self._names)
        try:
            context = cel.Context(values, dict(GUARDS))
        except Exception as error:  # noqa: BLE001 - the library raises many kinds, and each of them means: held
            reason = f"the request does not fit into CEL ({type(error).__name__})"
            return Explanation(held(Reason.POLICY_ERROR, reason))
        nulls = _Nulls.of(values, self.reads)
        tried = []
        for rule in self.rules:
            outcome = _ask(rule, values, nulls, context)
            tried.append(outcome)
            decision = _decided(rule, outcome, event, now)
            if decision is not None:
                return Explanation(decision, tuple(tried))
        return Explanation(self._default(), tuple(tried))

    def _default(self) -> Decision:
        seconds, then_after = _after(self.deadline)
        return Decision(self.default, Reason.DEFAULT, "no rule matched", answer_within=seconds, then_after=then_after)


NO_POLICY: Final = Policy(Tables(), Verdict.HOLD)


@dataclass(frozen=True, slots=True)
class _Nulls:
    """Which of the fields that some rule reads are null, and which hold a null anywhere inside."""

    absent: frozenset[Path]
    holed: frozenset[Path]

    @classmethod
    def of(cls, values: Mapping[str, Any], reads: frozenset[Path]) -> "_Nulls":
        found = {path: _value(values, path) for path in reads if path[0] != "lists"}
        return cls(
            frozenset(path for path, value in found.items() if value is None),
            frozenset(path for path, value in found.items() if _has_null(value)),
        )

    def unknown(self, when: Expression) -> frozenset[Path]:
        """The fields that a rule reads and that are not known. `default` hands an object or a list on, and nobody
        asked about what is inside."""
        return (when.mentions & self.holed) | (when.defaults & (self.holed - self.absent))


def _ask(rule: Rule, values: Mapping[str, Any], nulls: _Nulls, context: cel.Context) -> Tried:
    unknown = nulls.unknown(rule.when)
    if unknown:
        return Tried(rule.name, Went.SKIPPED if rule.skips_unknown else Went.UNDECIDED, ".".join(min(unknown)))
    if rule.when.loops and any(_is_too_long(_value(values, path)) for path in rule.when.reads):
        return Tried(rule.name, Went.FAILED, f"it loops over more than {LONGEST_LOOP} elements")
    try:
        matches = rule.when.evaluate(context)
    except BadExpression as error:
        return Tried(rule.name, Went.FAILED, str(error))
    return Tried(rule.name, Went.MATCHED if matches else Went.DID_NOT_MATCH)


def _decided(rule: Rule, tried: Tried, event: Offer, now: float) -> Decision | None:
    """The decision that follows, None where the next rule is to be asked."""
    if tried.went is Went.UNDECIDED:
        reason = f"rule {rule.name!r} reads {tried.why}, which is not known"
        return held(Reason.UNKNOWN_FIELD, reason, rule.name)
    if tried.went is Went.FAILED:
        return held(Reason.POLICY_ERROR, f"rule {rule.name!r}: {tried.why}", rule.name)
    if tried.went is not Went.MATCHED:
        return None
    propose_at = rule.proposal.at(pickup_time(event.data), now) if rule.proposal else None
    if rule.then is Verdict.PROPOSE and propose_at is None:
        reason = f"rule {rule.name!r} would propose a time after a pickup that is not known"
        return held(Reason.POLICY_ERROR, reason, rule.name)
    if propose_at is not None and propose_at.timestamp() <= now:
        reason = f"rule {rule.name!r} would propose a time that is past"
        return held(Reason.POLICY_ERROR, reason, rule.name)
    seconds, then_after = _after(rule.deadline)
    return Decision(
        rule.then, Reason.RULE, f"rule {rule.name!r}", rule.name, rule.notes, propose_at, seconds, then_after, rule.tags
    )


def _after(deadline: Deadline | None) -> tuple[float | None, Verdict | None]:
    return (deadline.seconds, deadline.then_after) if deadline else (None, None)


def _value(values: Mapping[str, Any], path: Path) -> Any:
    node: Any = values
    for step in path:
        if not isinstance(node, dict):
            return None
        node = node.get(step)
    return node


def _is_too_long(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > LONGEST_LOOP or any(_is_too_long(inner) for inner in value.values())
    return isinstance(value, list) and (len(value) > LONGEST_LOOP or any(_is_too_long(inner) for inner in value))


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_null(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_has_null(inner) for inner in value)
    return value is None
