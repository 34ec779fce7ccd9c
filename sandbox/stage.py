"""Plays a scenario on a marketplace: does its deeds, and waits for what it expects."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox import life, malformed
from sandbox.deeds import DEEDS
from sandbox.evidence import Rules
from sandbox.marketplace import Marketplace
from sandbox.record import ApiCall, Deed, Entry, WebhookAttempt
from sandbox.scenario import PLACES, Scenario, Step
from sandbox.signing import SigningKey
from sandbox.trouble import Planned, Trouble
from sandbox.verify import verify
from sandbox.webhooks import Unknown

WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one step went; `seen` says what was there instead where it failed."""

    step: Step
    ok: bool
    seen: str = ""


class Unplayable(Exception):
    """A step that names what is not there."""


class Stage:
    """One performance. The record counts from its start. `pace` stretches or shortens its pauses."""

    def __init__(self, market: Marketplace, pace: float = 1.0) -> None:
        self._market = market
        self._pace = pace
        self._start = market.record.total
        self._before = frozenset(market.requests)
        self._names: dict[str, str] = {}
        self._receivers = dict(zip(PLACES, market.receivers, strict=False))
        self._deeds: dict[str, Callable[[Mapping[str, Any]], Awaitable[None]]] = {
            "create": self._create,
            "return_leg": self._return_leg,
            "broadcast": self._broadcast,
            "many": self._many,
            "redeliver": self._redeliver,
            "send": self._send,
            "forge": self._forge,
            "idle": self._idle,
            "pause": self._pause,
        }

    async def play(self, scenario: Scenario) -> list[Outcome]:
        """Step by step; stops at the first that fails. Trouble ends with the scenario."""
        outcomes = []
        try:
            for step in scenario.steps:
                outcomes.append(await self._outcome(step))
                if not outcomes[-1].ok:
                    break
        finally:
            self._market.trouble.clear()
        return outcomes

    async def _outcome(self, step: Step) -> Outcome:
        try:
            if step.kind == "expect":
                return await self._expected(step)
            await self._do(step.verb, step.words)
        except (Unplayable, Unknown, life.NotAvailable, ValueError, TimeoutError) as error:
            return Outcome(step, ok=False, seen=str(error) or type(error).__name__)
        return Outcome(step, ok=True)

    # Names

    def _request_id(self, words: Mapping[str, Any]) -> str:
        name = words.get("request", "")
        if name not in self._names:
            raise Unplayable(f"no request is called {name!r} here")
        return self._names[name]

    def _request(self, words: Mapping[str, Any]) -> life.ServiceRequest:
        return self._market.request(self._request_id(words))

    def _receiver(self, name: str) -> str:
        return self._market.receiver(self._receivers.get(name, name)).name

    # Deeds

    async def _do(self, verb: str, words: Mapping[str, Any]) -> None:
        if verb in self._deeds:
            await self._deeds[verb](words)
        elif verb in ("plan", "trouble", "rotate_key", "expire_tokens"):
            self._arrange(verb, words)
        else:
            step = DEEDS[verb](self._request(words), self._named(words), self._market.options)
            self._market.apply(step, verb)

    def _named(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The words with the Receivers' own names."""
        named = dict(words)
        for word in {"receiver", "to"} & {name for name, value in words.items() if isinstance(value, str)}:
            named[word] = self._receiver(words[word])
        if "from" in words:
            named["from"] = [self._receiver(name) for name in words["from"]]
        return named

    def _arrange(self, verb: str, words: Mapping[str, Any]) -> None:
        given = words.get("receiver")
        receiver = self._receiver(str(given or "first"))
        if verb == "plan":
            self._market.trouble.plan(Planned(**{**words, "receiver": receiver if given else ""}))
        elif verb == "trouble":
            self._market.trouble.set(Trouble.of(words.get("settings", {})), receiver if given else "")
        elif verb == "rotate_key":
            self._market.rotate_key(receiver)
        else:
            self._market.expire_tokens(receiver)

    async def _create(self, words: Mapping[str, Any]) -> None:
        made = self._market.create_request(words.get("kind"), words.get("data"), float(words.get("lead_minutes", 90)))
        self._names[str(words.get("name", "trip"))] = made

    async def _return_leg(self, words: Mapping[str, Any]) -> None:
        self._names[str(words.get("name", "back"))] = self._market.create_return_leg(self._request_id(words))

    async def _broadcast(self, words: Mapping[str, Any]) -> None:
        to = [self._receiver(name) for name in words.get("to", ["first"])]
        self._market.broadcast(self._request_id(words), to)

    async def _many(self, words: Mapping[str, Any]) -> None:
        to = [self._receiver(name) for name in words.get("to", ["first"])]
        for _ in range(int(words.get("number", 20))):
            self._market.broadcast(self._market.create_request(words.get("kind")), to)

    def _row(self, words: Mapping[str, Any]) -> WebhookAttempt:
        receiver, request_id = self._receiver(str(words.get("receiver", "first"))), self._request_id(words)
        for row in self._market.webhooks.history(receiver):
            if row.request_id == request_id and words.get("action", row.action) == row.action:
                return row
        raise Unplayable("there is no such webhook call")

    async def _redeliver(self, words: Mapping[str, Any]) -> None:
        row = self._row(words)
        self._market.webhooks.redeliver(row, self._market.receiver(row.receiver))

    async def _forge(self, words: Mapping[str, Any]) -> None:
        row = self._row(words)
        await self._market.webhooks.send(self._market.receiver(row.receiver), row.body, SigningKey.wrong(row.signature))

    async def _send(self, words: Mapping[str, Any]) -> None:
        body = malformed.MALFORMED[words["malformed"]]()
        receiver = self._market.receiver(self._receiver(str(words.get("receiver", "first"))))
        await self._market.webhooks.send(receiver, body, "right")

    async def _idle(self, words: Mapping[str, Any]) -> None:
        await self._market.delivery.idle(float(words.get("within", WITHIN)))

    async def _pause(self, words: Mapping[str, Any]) -> None:
        await asyncio.sleep(float(words.get("seconds", 1)) * self._pace)

    # Expectations

    async def _expected(self, step: Step) -> Outcome:
        words = step.words
        if step.verb == "right":
            findings = verify(self._entries(), Rules(grace=float(words.get("grace", 5.0))))
            return Outcome(step, not findings, "; ".join(f"{f.wrong}: {f.sentence}" for f in findings))
        within = float(words.get("within", WITHIN))
        if step.verb == "no_call":
            met = await self._until(lambda: bool(self._calls(words)), within * self._pace)
            return Outcome(step, not met, "it came" if met else "")
        if step.verb == "request":
            return Outcome(step, await self._until(lambda: self._is_so(words), within), self._as_it_is(words))
        found = self._calls if step.verb == "call" else self._webhooks
        times = int(words.get("times", 1))
        met = await self._until(lambda: len(found(words)) >= times, within)
        return Outcome(step, met, "" if met else self._instead(step))

    async def _until(self, true: Callable[[], bool], within: float) -> bool:
        """Whether it becomes true in time; looked at after every new record."""
        changed = asyncio.Event()
        stop = self._market.record.listen(lambda _: changed.set())
        try:
            async with asyncio.timeout(within):
                while not true():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return true()
        finally:
            stop()
        return True

    def _entries(self) -> list[Entry]:
        """What was recorded since this scenario began, but for the after-pains of requests that are older."""
        return [e for e in self._market.record.since(self._start) if e.request_id not in self._before]

    def _calls(self, words: Mapping[str, Any]) -> list[ApiCall]:
        return [e for e in self._entries() if isinstance(e, ApiCall) and self._fits(e, words)]

    def _webhooks(self, words: Mapping[str, Any]) -> list[WebhookAttempt]:
        return [e for e in self._entries() if isinstance(e, WebhookAttempt) and self._fits(e, words)]

    def _fits(self, entry: ApiCall | WebhookAttempt, words: Mapping[str, Any]) -> bool:
        if entry.receiver != self._receiver(str(words.get("receiver", "first"))) and entry.receiver:
            return False
        if "request" in words and entry.request_id != self._request_id(words):
            return False
        if isinstance(entry, ApiCall):
            asked = {"call": entry.call, "status": entry.answer_status, "answered": entry.answered}
        else:
            asked = {"action": entry.action, "status": entry.status, "cause": entry.cause, "signed": entry.signed}
            code = entry.response_code or 0
            if "response" in words and words["response"] not in (code, f"{code // 100}xx"):
                return False
        return all(bool(words[name] == value) for name, value in asked.items() if name in words)

    def _is_so(self, words: Mapping[str, Any]) -> bool:
        request = self._request(words)
        taken = sum(request.accepts_taken.values())
        holder = request.assigned_to
        wanted = words.get("assigned_to", holder)
        return bool(
            words.get("stage", request.stage) == request.stage
            and words.get("accepts_taken", taken) == taken
            and holder == (self._receivers.get(wanted, wanted) if wanted else wanted)
        )

    def _as_it_is(self, words: Mapping[str, Any]) -> str:
        request = self._request(words)
        return f"{request.stage}, assigned to {request.assigned_to}, accepts taken {request.accepts_taken}"

    def _instead(self, step: Step) -> str:
        about = [e for e in self._entries() if not isinstance(e, Deed)]
        if "request" in step.words:
            about = [e for e in about if e.request_id == self._request_id(step.words)]
        return ", ".join(_brief(e) for e in about[-6:]) or "nothing"


def _brief(entry: ApiCall | WebhookAttempt) -> str:
    if isinstance(entry, ApiCall):
        return f"call {entry.call} {entry.answer_status}"
    return f"webhook {entry.action} {entry.response_code or entry.error}"
