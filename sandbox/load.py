"""Load: a steady stream of broadcasts, and how fast the Receivers answered and accepted.

Times are seconds. The time to accept is counted from the first attempt to deliver the offer to the arrival
of the accept that took effect, both seen here.
"""

import asyncio
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandbox.marketplace import Marketplace
from sandbox.options import Status
from sandbox.record import ApiCall, Entry, WebhookAttempt

QUANTILES = (0.5, 0.9, 0.99, 1.0)
TICK = 0.005


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to send: `rate` broadcasts a second for `duration` seconds, each to all of `to`."""

    rate: float
    duration: float
    to: tuple[str, ...]
    kind: str | None = None
    lead_minutes: float = 90.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of how many values, and the quantiles of QUANTILES in their order; no values, no quantiles."""

    number: int
    quantiles: tuple[float, ...]


def distribution(values: Iterable[float]) -> Distribution:
    """Quantiles by the nearest rank."""
    ordered = sorted(values)
    last = len(ordered) - 1
    ranks = [min(last, int(q * len(ordered))) for q in QUANTILES] if ordered else []
    return Distribution(len(ordered), tuple(ordered[rank] for rank in ranks))


class Load:
    """One run. `progress` may be read at any time."""

    def __init__(self, market: Marketplace, wanted: Wanted) -> None:
        self._market = market
        self.wanted = wanted
        self.broadcast = 0
        self.behind = 0.0
        self.running = True
        self._answers = array("d")
        self._accepts = array("d")
        self._failed = 0
        self._offered: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Sends the stream, then waits until nothing is on its way any more."""
        stop_listening = self._market.record.listen(self._note)
        try:
            await self._send(time.perf_counter())
            await self._market.delivery.idle(sum(self._market.options.attempt_delays) + 60.0)
        except TimeoutError:
            pass
        finally:
            stop_listening()
            self.running = False

    async def _send(self, start: float) -> None:
        wanted = self.wanted
        total = round(wanted.rate * wanted.duration)
        while self.broadcast < total:
            due = min(total, int((time.perf_counter() - start) * wanted.rate) + 1)
            # A few at a time, so that answers and API calls get their turn in between.
            for _ in range(min(due - self.broadcast, 4)):
                request_id = self._market.create_request(wanted.kind, None, wanted.lead_minutes)
                self._market.broadcast(request_id, wanted.to)
                self.broadcast += 1
            late = (time.perf_counter() - start) - self.broadcast / wanted.rate
            self.behind = max(self.behind, late)
            await asyncio.sleep(TICK if self.broadcast >= due else 0)

    def _note(self, entry: Entry) -> None:
        if isinstance(entry, WebhookAttempt):
            if entry.response_code is not None:
                self._answers.append(entry.seconds)
            self._failed += entry.signed and not entry.taken
            if entry.status == Status.AVAILABLE and entry.cause == "event":
                self._offer(entry)
        elif isinstance(entry, ApiCall) and entry.call == "accept" and entry.took_effect:
            began = self._offered.pop((entry.receiver, entry.request_id), None)
            if began is None:
                # The accept came before the answer to the webhook that told of it.
                self._offered[entry.receiver, entry.request_id] = -entry.at
            else:
                self._accepts.append(entry.at - began)

    def _offer(self, entry: WebhookAttempt) -> None:
        before = self._offered.pop((entry.receiver, entry.request_id), None)
        if before is not None and before < 0:
            self._accepts.append(-before - entry.at)
        else:
            self._offered[entry.receiver, entry.request_id] = entry.at

    def progress(self) -> dict[str, object]:
        """Counts so far, and the distributions in seconds; `behind`: the most that the stream lagged."""
        return {
            "running": self.running,
            "broadcast": self.broadcast,
            "total": round(self.wanted.rate * self.wanted.duration),
            "behind": round(self.behind, 3),
            "webhooks_failed": self._failed,
            "pending": self._market.delivery.pending,
            "webhook_answer": _told(self._answers),
            "time_to_accept": _told(self._accepts),
        }


def _told(values: Sequence[float]) -> dict[str, float]:
    found = distribution(values)
    names = ("p50", "p90", "p99", "max")
    quantiles = {name: round(q, 5) for name, q in zip(names, found.quantiles, strict=False)}
    return {"number": found.number, **quantiles}
