"""The wrongs that `verify` knows: each a pure function from what happened to findings."""

from collections.abc import Callable, Iterator

import orjson

from sandbox.evidence import Case, Evidence, Finding, Rules, ended, reached
from sandbox.life import goes_back
from sandbox.options import Status
from sandbox.record import ApiCall, WebhookAttempt

REACTIONS = ("accept", "decline", "best_time")
PROGRESS = ("state", "locations", "change_request")
GONE = (Status.UNAVAILABLE, Status.COMPLETED)
MANY = 30
MANY_WITHIN = 10.0


def _order(attempt: WebhookAttempt, rules: Rules) -> str:
    if rules.order_by == "event_id":
        return attempt.event_id
    return str(orjson.loads(attempt.body).get("event_timestamp", ""))


def _known(case: Case, rules: Rules, at: float) -> WebhookAttempt | None:
    """The newest event that the Receiver had answered 2xx by then, its retries and duplicates included."""
    taken = [w for w in case.webhooks if w.signed and w.taken and ended(w) <= at]
    return max(taken, key=lambda w: _order(w, rules), default=None)


def webhooks_answered(evidence: Evidence, rules: Rules) -> Iterator[Finding]:
    """Every rightly signed, documented webhook is answered 2xx, in time."""
    taken = {(w.receiver, w.webhook_id, w.event_id) for w in evidence.webhooks if w.taken}
    for attempt in evidence.webhooks:
        if not attempt.signed or not attempt.event_id or attempt.error in ("lost", "cut"):
            continue
        retried = (attempt.receiver, attempt.webhook_id, attempt.event_id) in taken
        if not attempt.taken and (rules.every_attempt or not retried):
            answer = attempt.error or f"{attempt.response_code}"
            sentence = f"{attempt.action} (attempt {attempt.attempt}) was answered: {answer}"
            yield Finding("not_2xx", attempt.receiver, attempt.request_id, attempt.at, sentence)
        elif attempt.taken and attempt.seconds > rules.answer_within:
            sentence = f"{attempt.action} was answered after {attempt.seconds:.1f} s"
            yield Finding("late", attempt.receiver, attempt.request_id, attempt.at, sentence)


def forged_taken(evidence: Evidence, rules: Rules) -> Iterator[Finding]:
    """What is not rightly signed is never answered 2xx."""
    for attempt in evidence.webhooks:
        if not attempt.signed and attempt.taken:
            sentence = f"a webhook with a wrong signature was answered {attempt.response_code}"
            yield Finding("took_forged", attempt.receiver, attempt.request_id, attempt.at, sentence)


def calls_documented(evidence: Evidence, rules: Rules) -> Iterator[Finding]:
    """Only documented calls, with bodies that the API takes, on requests that exist."""
    mentioned = {(case.receiver, case.request_id) for case in evidence.cases if case.mentioned}
    for call in evidence.calls:
        if call.call == "unknown":
            sentence = f"{call.method} {call.path} is no documented call"
            yield Finding("undocumented_call", call.receiver, "", call.at, sentence)
        elif call.answer_status == 400:
            sentence = f"{call.call} was refused with 400 {call.error_code}"
            yield Finding("bad_body", call.receiver, call.request_id, call.at, sentence)
        elif call.answer_status == 404 and (call.receiver, call.request_id) not in mentioned:
            sentence = f"{call.call} on a request that nobody was told of"
            yield Finding("unknown_request", call.receiver, call.request_id, call.at, sentence)


def tokens_alive(evidence: Evidence, rules: Rules) -> Iterator[Finding]:
    """Tokens are renewed in time, and one that was refused is not used again."""
    refused: dict[str, float] = {}
    for call in evidence.calls:
        if call.call == "token":
            if call.answer_status == 401 and call.trouble is None:
                sentence = "the token endpoint was called with wrong credentials"
                yield Finding("wrong_credentials", call.receiver, "", call.at, sentence)
            continue
        if call.token in ("none", "unknown"):
            sentence = f"{call.call} without a token of ours"
            yield Finding("no_token", call.receiver, call.request_id, call.at, sentence)
        elif call.token == "expired":  # noqa: S105 - a kind of token
            sentence = f"{call.call} with a token past its time"
            yield Finding("expired_token", call.receiver, call.request_id, call.at, sentence)
        since = refused.get(call.token_mark)
        if since is not None and call.at > since + rules.grace:
            sentence = f"{call.call} with a token that had been refused before"
            yield Finding("dead_token", call.receiver, call.request_id, call.at, sentence)
        if call.answer_status == 401 and call.answered:
            refused.setdefault(call.token_mark, ended(call))


def accepted_twice(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """After a 201 there is no other accept, unless the request was offered anew; and no two at once."""
    last: ApiCall | None = None
    for call in case.named("accept"):
        if last is not None and _repeats(case, last, call):
            sentence = "accepted again after 201" if call.at >= ended(last) else "two accepts at once"
            yield case.finding("accepted_twice", call.at, sentence)
        if last is None or not _granted(last) or _offered_between(case, last.at, call.at) or _granted(call):
            last = call


def _granted(call: ApiCall) -> bool:
    return call.answered and call.answer_status == 201


def _offered_between(case: Case, start: float, stop: float) -> bool:
    """Whether an offer began to be sent in between that the Receiver had not seen before."""
    seen = {w.event_id for w in case.webhooks if w.at <= start and reached(w)}
    return any(
        w.status == Status.AVAILABLE and w.event_id not in seen and start < w.at <= stop and reached(w)
        for w in case.webhooks
    )


def _repeats(case: Case, first: ApiCall, second: ApiCall) -> bool:
    overlapping = second.at < ended(first) and first.trouble is None and second.trouble is None
    again = _granted(first) and second.at >= ended(first)
    return (overlapping or again) and not _offered_between(case, first.at, second.at)


def acted_on_gone(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """Nothing is accepted, declined or proposed once the newest event taken says that it is gone."""
    for call in case.named(*REACTIONS):
        known = _known(case, rules, call.at - rules.grace)
        newest = _known(case, rules, call.at)
        if known and newest and known.status in GONE and newest.status in GONE:
            ago = call.at - ended(known)
            sentence = f"{call.call} although {known.action} ({known.status}) was taken {ago:.1f} s before"
            yield case.finding("acted_on_gone", call.at, sentence)


def acted_unoffered(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """Nothing is called before a rightly signed webhook about the request has reached the Receiver."""
    first = min((w.at for w in case.webhooks if reached(w)), default=None)
    for call in case.calls:
        if not case.mentioned and call.answer_status != 404 and (first is None or call.at < first):
            sentence = f"{call.call} before any rightly signed webhook told of the request"
            yield case.finding("acted_unoffered", call.at, sentence)


def progress_ours(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """States, locations and change requests are sent for trips that are ours."""
    for call in case.named(*PROGRESS):
        if call.answer_status != 403:
            continue
        granted = any(_granted(c) and ended(c) <= call.at for c in case.named("accept"))
        told = any(w.status == Status.ASSIGNED and w.at <= call.at for w in case.webhooks if reached(w))
        known = _known(case, rules, call.at - rules.grace)
        newest = _known(case, rules, call.at)
        gone = known and newest and known.status in GONE and newest.status in GONE
        if gone or not (granted or told):
            sentence = f"{call.call} on a trip that is not the Receiver's"
            yield case.finding("progress_not_ours", call.at, sentence)


def states_in_order(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """States go forward, and so do their timestamps."""
    names: tuple[str, ...] = ()
    latest = ""
    for call in case.named("state"):
        try:
            state = orjson.loads(call.body)
            name, timestamp = str(state["name"]), str(state["timestamp"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue  # told as bad_body
        if goes_back(names, name):
            yield case.finding("state_order", call.at, f"{name} after {names[-1]}")
        elif timestamp < latest:
            yield case.finding("state_order", call.at, f"{name} has an earlier time than the one before")
        names, latest = (*names, name), max(latest, timestamp)


def never_reacted(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """An offer that was taken is answered within `react_within`, if it is open for so long."""
    if rules.react_within is None:
        return
    offers = [w for w in case.webhooks if w.status == Status.AVAILABLE and w.signed and w.taken]
    if not offers:
        return
    start = ended(offers[0])
    over = min((w.at for w in case.webhooks if w.status != Status.AVAILABLE), default=end)
    reacted = any(c.at <= start + rules.react_within for c in case.named(*REACTIONS)) or case.by_hand
    if not reacted and min(over, end) - start > rules.react_within:
        sentence = f"no answer to an offer within {rules.react_within:g} s"
        yield case.finding("never_reacted", start, sentence)


def retry_after_kept(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """After a 429 the same call waits as long as Retry-After says."""
    waits: dict[str, tuple[float, float]] = {}
    for call in case.calls:
        start, until = waits.get(call.call, (0.0, 0.0))
        if start <= call.at < until:
            early = until - call.at
            yield case.finding("retry_after_ignored", call.at, f"{call.call} came {early:.2f} s too early")
        if call.answer_status == 429 and call.retry_after is not None and call.answered:
            # The Receiver's clock starts when the answer has arrived there, and a timer may fire early.
            waits[call.call] = (ended(call), ended(call) + call.retry_after * 0.95)


def not_hammered(case: Case, rules: Rules, end: float) -> Iterator[Finding]:
    """One call is not repeated without pause."""
    for name in {c.call for c in case.calls} - {"locations"}:
        times = [c.at for c in case.named(name)]
        for first, last in zip(times, times[MANY - 1 :], strict=False):
            if last - first < MANY_WITHIN:
                sentence = f"{name} was called {MANY} times within {last - first:.1f} s"
                yield case.finding("hammered", last, sentence)
                break


Everywhere = Callable[[Evidence, Rules], Iterator[Finding]]
PerCase = Callable[[Case, Rules, float], Iterator[Finding]]

EVERYWHERE: tuple[Everywhere, ...] = (webhooks_answered, forged_taken, calls_documented, tokens_alive)
PER_CASE: tuple[PerCase, ...] = (
    accepted_twice,
    acted_on_gone,
    acted_unoffered,
    progress_ours,
    states_in_order,
    never_reacted,
    retry_after_kept,
    not_hammered,
)
