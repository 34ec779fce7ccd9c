"""Two policies over the same offers: what the new one would have done otherwise. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.facts import Facts
from worker.policy.decision import Decision, Verdict
from worker.policy.offer import Offer
from worker.policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Seen:
    """An offer as it was when a policy decided it: whose, when (Unix seconds), and what the store knew."""

    customer_id: str
    offer: Offer
    at: float
    facts: Facts


@dataclass(frozen=True, slots=True)
class Change:
    """An offer with which the new policy does something else."""

    customer_id: str
    service_request_id: str
    old: Decision
    new: Decision


@dataclass(slots=True)
class Comparison:
    """What has been compared so far. `matrix` counts (old verdict, new verdict); of the `same` verdicts
    `other_rules` came from a rule of another name; `changes` holds the first `most` of the others;
    `gone` offers could not be asked about, because their data is no longer kept."""

    most: int
    seen: int = 0
    same: int = 0
    other_rules: int = 0
    gone: int = 0
    matrix: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    def add(self, old: Policy, new: Policy, offers: Iterable[Seen]) -> None:
        """Decide each offer by both."""
        for seen in offers:
            before = old.decide(seen.offer, seen.at, seen.facts)
            after = new.decide(seen.offer, seen.at, seen.facts)
            self.seen += 1
            self.matrix[before.verdict, after.verdict] += 1
            if before.verdict is after.verdict:
                self.same += 1
                self.other_rules += before.rule != after.rule
            elif len(self.changes) < self.most:
                self.changes.append(Change(seen.customer_id, seen.offer.service_request_id, before, after))
