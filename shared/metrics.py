"""Every metric, in one list (docs/observability.md explains each; a test holds the two together).

Labels are customers' ids from the configuration and closed vocabularies; never an id of a request, never PHI.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_FAST: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SLOW: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)

WEBHOOKS: Final = Counter("receiver_webhooks", "Webhooks answered", ["customer", "action", "answer"])
WEBHOOK_SECONDS: Final = Histogram("receiver_webhook_seconds", "Time to answer a webhook", buckets=_FAST)
EVENTS: Final = Counter("receiver_events", "Deliveries handled by the workers", ["queue", "customer", "settlement"])
EVENT_SECONDS: Final = Histogram(
    "receiver_event_seconds", "Time that a worker spent on a delivery", ["queue"], buckets=_SLOW
)
QUEUE_WAIT: Final = Histogram(
    "receiver_queue_wait_seconds", "From a webhook's arrival to the first look at it", ["queue"], buckets=_SLOW
)
DECISIONS: Final = Counter("receiver_decisions", "Offers decided", ["customer", "decision", "rule"])
TIME_TO_ACCEPT: Final = Histogram(
    "receiver_time_to_accept_seconds", "From the webhook's arrival to the accept call", buckets=_SLOW
)
TIME_TO_ANSWER: Final = Histogram(
    "receiver_time_to_answer_seconds", "From the webhook's arrival to VectorCare's answer to the accept", buckets=_SLOW
)
API_CALLS: Final = Counter("receiver_api_calls", "Calls of VectorCare's API", ["customer", "call", "answer"])
API_SECONDS: Final = Histogram("receiver_api_seconds", "Time that a call of the API took", ["call"], buckets=_SLOW)
TOKENS: Final = Counter("receiver_token_requests", "Access tokens asked for", ["customer", "answer"])
OUTCOMES: Final = Counter("receiver_outcomes", "Outcomes committed", ["customer", "state"])
PUBLISHED: Final = Counter("receiver_outcomes_published", "Outcomes confirmed by the broker", ["customer"])
OUTBOX_EVENTS: Final = Gauge("receiver_outbox_events", "Outcomes committed and not published yet")
OUTBOX_OLDEST: Final = Gauge("receiver_outbox_oldest_seconds", "How long ago the oldest of those was committed")
UNCONFIRMED: Final = Gauge(
    "receiver_unconfirmed_trips", "Trips told as assigned that VectorCare has not confirmed", ["customer"]
)
SET_ASIDE: Final = Counter(
    "receiver_events_set_aside", "Events not acted on because of their order", ["customer", "why"]
)
PARKED: Final = Counter("receiver_events_parked", "Events parked", ["customer", "reason"])
CONSUMERS: Final = Gauge("receiver_consumer_alive", "1 where the broker hands us this queue's messages", ["queue"])
SPOOLED: Final = Counter("receiver_spooled", "Webhooks that the spool took because the broker did not")
FORWARDED: Final = Counter("receiver_spool_forwarded", "Webhooks of the spool that the broker confirmed since")
SPOOL_EVENTS: Final = Gauge("receiver_spool_events", "Webhooks in the spool")
SPOOL_OLDEST: Final = Gauge("receiver_spool_oldest_seconds", "How long ago the oldest webhook of the spool came")
REFUSED: Final = Counter(
    "receiver_webhooks_refused", "Webhooks of a known customer that were not taken", ["customer", "why", "keys"]
)
BRAKE: Final = Gauge("receiver_brake", "1 where unexpected errors have stopped this queue's consumer", ["queue"])
CUSTOMERS_DISABLED: Final = Gauge("receiver_customers_disabled", "Customers with a broken configuration")
COMMANDS: Final = Counter("receiver_commands", "Results of commands published", ["customer", "result"])
PUSHES: Final = Counter("receiver_pushes", "Events posted to subscriptions", ["subscription", "answer"])
UNACKNOWLEDGED: Final = Gauge(
    "receiver_unacknowledged", "Trips that are ours and that no dispatch system has acknowledged in time", ["customer"]
)
NOTICES: Final = Counter("receiver_notices", "Notices sent to people", ["kind", "answer"])
SPANS: Final = Counter("receiver_spans", "Spans of sampled traces", ["what"])
BUILD_INFO: Final = Gauge("receiver_build_info", "1; what runs here", ["version", "python", "part"])
