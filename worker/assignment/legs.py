"""The two legs of a round trip: whoever has one of them must be told when the other can't be had. Pure."""

from dataclasses import replace

from worker.assignment.telling import tell
from worker.assignment.values import GONE_STATES, Assignment, State, Step


def other_leg_ended(mine: Assignment, other: Assignment) -> Step:
    """Looks at the other leg of a trip of ours. No call undoes an accept, so a person has to decide what to do."""
    if not mine.ours or mine.other_leg_lost or other.ours or other.state not in GONE_STATES:
        return Step(mine, "other_leg_in_order")
    mine = replace(mine, other_leg_lost=True)
    reason = "the round trip's other leg is not ours"
    return tell(mine, None, State.UPDATED, "other_leg_lost", reason, confirmed=mine.confirmed, needs_attention=True)
