"""Trouble on demand: decides, by seeded chance or by plan, what goes wrong with which webhook and which call.

A decision follows from the seed, the Receiver, the service request and how many such events there were
before, and not from the order in which things happen to arrive: a run repeats although its timing never does.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from sandbox.chance import stream

CALL_TROUBLES = (
    "slow",
    "throttle",
    "fail",
    "fail_after",
    "drop_before",
    "drop_after",
    "refuse_token",
)
WEBHOOK_TROUBLES = ("lose", "hold", "delay", "duplicate", "cut")


@dataclass(frozen=True, slots=True)
class Trouble:
    """How likely each kind of trouble is (0 to 1), and how bad. Times are seconds. All off by default.

    Webhooks: `duplicate` (1 to `copies` more of the same), `delay` (by up to `delay_seconds`), `reorder`
    (held back until a later one of the same request was delivered, at most `delay_seconds`), `lose` (never
    sent), `cut` (the first attempt fails on its way), `old` (an older event of the Receiver is delivered
    once more beside it), `malformed` (a signed body that is not as documented beside it), `forge` (a copy
    with a wrong signature). `competitor`: a provider outside accepts within `competitor_seconds` of the
    broadcast.

    API: `slow` (by up to `slow_seconds`), `throttle` (429, with Retry-After unless `retry_after` is None),
    `fail` (5xx, nothing happened), `fail_after` (5xx, but the call took effect), `drop_before` and
    `drop_after` (the connection is cut before or after the call took effect), `refuse_token` (401 for a
    good token, which is dead from then on). `calls`: the names of the calls that this holds for, `token`
    among them; empty is all.
    """

    duplicate: float = 0.0
    copies: int = 2
    delay: float = 0.0
    delay_seconds: float = 1.0
    reorder: float = 0.0
    lose: float = 0.0
    cut: float = 0.0
    old: float = 0.0
    malformed: float = 0.0
    forge: float = 0.0
    competitor: float = 0.0
    competitor_seconds: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 1.0
    throttle: float = 0.0
    retry_after: float | None = 1.0
    fail: float = 0.0
    fail_after: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    refuse_token: float = 0.0
    calls: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Trouble":
        """From JSON or TOML. Raises ValueError for unknown names and for what is no number."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"no such trouble: {', '.join(unknown)}")
        given = dict(values)
        if "calls" in given:
            given["calls"] = tuple(given["calls"])
        wrong = [n for n, v in given.items() if n != "calls" and not isinstance(v, int | float | None)]
        if wrong:
            raise ValueError(f"not a number: {', '.join(wrong)}")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Treatment:
    """What happens to one webhook. `delays`: one copy is sent after each. `cut`: so many attempts fail."""

    delays: tuple[float, ...] = (0.0,)
    lost: bool = False
    held: float | None = None
    cut: int = 0
    old: int | None = None
    malformed: int | None = None
    forged: bool = False


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What happens to one call: a name of CALL_TROUBLES or None, how long it waits, what it is answered."""

    what: str | None = None
    seconds: float = 0.0
    status: int = 503
    retry_after: float | None = None


UNTROUBLED = Treatment()
UNHINDERED = Hindrance()


@dataclass(frozen=True, slots=True)
class Planned:
    """Trouble for the next webhooks or calls that fit. `match`: an action or status, or a call's name."""

    what: str
    match: str = ""
    receiver: str = ""
    times: int = 1
    seconds: float = 1.0
    status: int = 503

    def fits(self, receiver: str, *names: str) -> bool:
        """Whether it is meant for this one."""
        return self.receiver in ("", receiver) and self.match in ("", *names)


class Troublemaker:
    """Holds the settings, for all Receivers and for single ones, and the plan."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._settings: dict[str, Trouble] = {}
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._plan: list[Planned] = []

    def set(self, trouble: Trouble, receiver: str = "") -> None:
        """From now on, for one Receiver, or for all that have no settings of their own."""
        self._settings[receiver] = trouble
        if trouble == Trouble():
            del self._settings[receiver]
        if not self._settings:
            self._counts.clear()

    def clear(self) -> None:
        """No trouble any more, planned or by chance."""
        self._settings.clear()
        self._counts.clear()
        self._plan.clear()

    def settings(self) -> dict[str, Trouble]:
        """What is set, by Receiver; the empty name is everyone else."""
        return dict(self._settings)

    def plan(self, planned: Planned) -> None:
        """Trouble for exactly the next ones that fit. Raises ValueError for an unknown kind."""
        if planned.what not in CALL_TROUBLES + WEBHOOK_TROUBLES:
            raise ValueError(f"no such trouble to plan: {planned.what}")
        self._plan.append(planned)

    def _planned(self, kinds: tuple[str, ...], receiver: str, *names: str) -> Planned | None:
        for index, planned in enumerate(self._plan):
            if planned.what in kinds and planned.fits(receiver, *names):
                left = planned.times - 1
                self._plan[index : index + 1] = [_again(planned, left)] if left else []
                return planned
        return None

    def _drawn(self, receiver: str, *names: str) -> tuple[Trouble, Random] | None:
        trouble = self._settings.get(receiver) or self._settings.get("")
        if trouble is None:
            return None
        key = (receiver, *names)
        self._counts[key] += 1
        return trouble, stream(self._seed, "trouble", *key, self._counts[key])

    def for_webhook(self, receiver: str, request_id: str, action: str, status: str) -> Treatment:
        """What happens to a webhook that is about to be sent."""
        if self._plan and (planned := self._planned(WEBHOOK_TROUBLES, receiver, action, status)):
            return _planned_treatment(planned)
        drawn = self._drawn(receiver, "webhook", request_id)
        return _treatment(*drawn) if drawn else UNTROUBLED

    def for_call(self, receiver: str, request_id: str, call: str) -> Hindrance:
        """What happens to a call that has just come in."""
        if self._plan and (planned := self._planned(CALL_TROUBLES, receiver, call)):
            return Hindrance(planned.what, _waits(planned), planned.status, planned.seconds)
        drawn = self._drawn(receiver, "call", request_id, call)
        if drawn is None or (drawn[0].calls and call not in drawn[0].calls):
            return UNHINDERED
        return _hindrance(*drawn)

    def competitor(self, request_id: str) -> float | None:
        """After how many seconds a provider outside accepts this request, or None if none does."""
        drawn = self._drawn("", "competitor", request_id)
        if drawn is None or drawn[1].random() >= drawn[0].competitor:
            return None
        return drawn[1].uniform(0.0, drawn[0].competitor_seconds)


def _again(planned: Planned, times: int) -> Planned:
    return Planned(planned.what, planned.match, planned.receiver, times, planned.seconds, planned.status)


def _waits(planned: Planned) -> float:
    return planned.seconds if planned.what == "slow" else 0.0


def _planned_treatment(planned: Planned) -> Treatment:
    if planned.what == "duplicate":
        return Treatment(delays=(0.0, planned.seconds))
    if planned.what == "delay":
        return Treatment(delays=(planned.seconds,))
    if planned.what == "hold":
        return Treatment(held=planned.seconds)
    return Treatment(cut=1) if planned.what == "cut" else Treatment(lost=True)


def _treatment(trouble: Trouble, chance: Random) -> Treatment:
    # Every draw is made, needed or not, so that switching one kind on leaves the others as they were.
    def happens(likely: float) -> bool:
        return chance.random() < likely

    copies = chance.randint(1, max(1, trouble.copies)) if happens(trouble.duplicate) else 0
    late = chance.uniform(0.0, trouble.delay_seconds) if happens(trouble.delay) else 0.0
    reordered, lost, cut = happens(trouble.reorder), happens(trouble.lose), happens(trouble.cut)
    old, malformed, forged = happens(trouble.old), happens(trouble.malformed), happens(trouble.forge)
    spread = [chance.uniform(0.0, trouble.delay_seconds) for _ in range(copies)]
    return Treatment(
        delays=(late, *spread),
        lost=lost,
        held=trouble.delay_seconds if reordered else None,
        cut=1 if cut else 0,
        old=chance.getrandbits(32) if old else None,
        malformed=chance.getrandbits(32) if malformed else None,
        forged=forged,
    )


def _hindrance(trouble: Trouble, chance: Random) -> Hindrance:
    seconds = chance.uniform(0.0, trouble.slow_seconds) if chance.random() < trouble.slow else 0.0
    status = chance.choice((500, 502, 503, 504))
    drawn = chance.random()
    for what in CALL_TROUBLES[1:]:
        likely = getattr(trouble, what)
        if drawn < likely:
            return Hindrance(what, seconds, status, trouble.retry_after)
        drawn -= likely
    return Hindrance("slow" if seconds else None, seconds)
