"""The state machine of an assignment: what we know, what just happened, now → what we know, and what to do.

Pure. Nothing here reads a clock, a socket or a table; `worker.ledger` keeps what it returns and the handlers carry it
out. docs/assignment.md holds its diagram and the whole table.
"""

from worker.assignment.answers import answered
from worker.assignment.legs import other_leg_ended
from worker.assignment.offers import looked_after, offered
from worker.assignment.persons import wish_answered, wish_looked_after, wished
from worker.assignment.values import (
    ACK,
    GONE_STATES,
    Answer,
    Answered,
    Assignment,
    Call,
    Counsel,
    Ending,
    Gap,
    Mode,
    Order,
    Outcome,
    Particulars,
    Result,
    Rules,
    Settle,
    State,
    Step,
    Wish,
    disagrees,
    order_of,
)
from worker.assignment.webhooks import assigned, completed, ended, failed

__all__ = [
    "ACK",
    "GONE_STATES",
    "Answer",
    "Answered",
    "Assignment",
    "Call",
    "Counsel",
    "Ending",
    "Gap",
    "Mode",
    "Order",
    "Outcome",
    "Particulars",
    "Result",
    "Rules",
    "Settle",
    "State",
    "Step",
    "Wish",
    "answered",
    "assigned",
    "completed",
    "disagrees",
    "ended",
    "failed",
    "looked_after",
    "offered",
    "order_of",
    "other_leg_ended",
    "wish_answered",
    "wish_looked_after",
    "wished",
]
