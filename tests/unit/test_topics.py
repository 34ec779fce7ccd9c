"""Keys and headers, read by independent means: the CloudEvents SDK, and a reference of topic matching."""

import re

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary_event
from hypothesis import given
from hypothesis import strategies as st

from shared import topics
from shared.event import Unreadable, read
from shared.signature import Verified, verify
from tests.webhooks import event, public_key, sign
from worker.assignment import Assignment, Outcome, State
from worker.outcomes import outcome_message

NOW = 1795435200.0


def test_the_headers_of_a_webhook_are_a_cloudevent() -> None:
    message = topics.webhook_message(event(action="A.b c"), NOW)
    read_back = from_binary_event(RabbitMQMessage(dict(message.headers), "application/json", message.body))
    assert read_back.get_id() == "0" * 31 + "1"
    assert read_back.get_type() == "com.vectorcare.openapi.v2.A.b c"
    assert read_back.get_source() == "/customers/acme"
    assert read_back.get_subject() == "VC-BSBBCY5Q"
    assert read_back.get_extension("requeststatus") == "AVAILABLE"
    assert read_back.get_extension("customerid") == "acme"
    assert read_back.get_extension("receivedtime") == "2026-11-23T12:00:00.000Z"
    assert message.routing_key == "A_b_c.AVAILABLE.acme"


def test_the_headers_of_an_unreadable_body_are_a_cloudevent_without_a_subject() -> None:
    verified = verify("acme", [public_key("acme")], b"nonsense", sign("acme", b"nonsense"))
    assert verified is not None
    unreadable = read(verified)
    assert isinstance(unreadable, Unreadable)
    message = topics.webhook_message(unreadable, NOW)
    read_back = from_binary_event(RabbitMQMessage(dict(message.headers), None, message.body))
    assert read_back.get_id().startswith("sha256-")
    assert read_back.get_subject() is None
    assert read_back.get_extension("reason")


def test_the_headers_of_an_outcome_are_a_cloudevent() -> None:
    outcome = Outcome(State.ASSIGNED, State.ACCEPTING, 2, "rule", "it is ours")
    message = outcome_message(Assignment("acme", "VC-1"), outcome, "uat", NOW)
    read_back = from_binary_event(RabbitMQMessage(dict(message.headers), "application/json", message.body))
    assert read_back.get_id() == "acme/VC-1/2"
    assert read_back.get_type() == "com.vectorcare.receiver.assignment.assigned"
    assert message.routing_key == "assignment.assigned.acme"


def test_only_the_signature_check_makes_a_verified_webhook() -> None:
    with pytest.raises(TypeError, match="verify"):
        Verified("acme", b"body", "signature")
    assert "body" not in repr(event().verified)


WORDS = st.lists(st.sampled_from(["a", "b", "acme"]), min_size=1, max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "b", "acme", "*", "#"]), min_size=1, max_size=5)


@given(pattern=PATTERNS, words=WORDS)
def test_topics_match_as_amqp_says(pattern: list[str], words: list[str]) -> None:
    # A reference: every word is followed by a dot, * is one such word, # any number of them.
    kinds = {"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}
    reference = "".join(kinds.get(part, re.escape(part) + r"\.") for part in pattern)
    expected = re.fullmatch(reference, "".join(f"{word}." for word in words)) is not None
    assert topics.matches(".".join(pattern), ".".join(words)) == expected
