"""What a person does in VectorCare's pages, by name: one table for the JSON API, scenarios and the Python API."""

from collections.abc import Callable, Mapping
from typing import Any

from sandbox import life
from sandbox.life import ServiceRequest, Step
from sandbox.options import Options

Words = Mapping[str, Any]
Deed = Callable[[ServiceRequest, Words, Options], Step]


class WrongWords(ValueError):
    """A deed lacks a word that it needs, or has one of another type; the message says which."""


def word(words: Words, name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A word that a deed needs. Raises WrongWords."""
    if not isinstance(words.get(name), kind):
        raise WrongWords(f"{name!r} is missing or of another type")
    return words[name]


def _competitor(request: ServiceRequest, words: Words, options: Options) -> Step:
    return life.competitor_accepts(request, options)


def _cancel(request: ServiceRequest, words: Words, options: Options) -> Step:
    return life.cancel(request)


def _withdraw(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`from`: names."""
    return life.withdraw(request, word(words, "from", list))


def _assign(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`to`: a name."""
    return life.assign(request, word(words, "to", str), options)


def _expire(request: ServiceRequest, words: Words, options: Options) -> Step:
    return life.expire(request)


def _complete(request: ServiceRequest, words: Words, options: Options) -> Step:
    return life.complete(request, options)


def _change(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`data`: the fields to change."""
    return life.change_data(request, word(words, "data", dict), options)


def _proposal(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`receiver`; `answer`: accepted, declined, or countered with a `time`."""
    receiver, answer = word(words, "receiver", str), word(words, "answer", str)
    return life.answer_proposal(request, receiver, options, answer=answer, counter=words.get("time"))


def _change_answer(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`receiver`; `accepted`: true or false."""
    return life.answer_change(request, word(words, "receiver", str), accepted=word(words, "accepted", bool))


def _accept_by_hand(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`receiver`: a person there accepts in VectorCare's own interface."""
    return life.accept(request, word(words, "receiver", str), options)


def _decline_by_hand(request: ServiceRequest, words: Words, options: Options) -> Step:
    """`receiver`: a person there declines in VectorCare's own interface."""
    return life.decline(request, word(words, "receiver", str))


DEEDS: Mapping[str, Deed] = {
    "competitor": _competitor,
    "cancel": _cancel,
    "withdraw": _withdraw,
    "assign": _assign,
    "expire": _expire,
    "complete": _complete,
    "change": _change,
    "proposal": _proposal,
    "change_answer": _change_answer,
    "accept_by_hand": _accept_by_hand,
    "decline_by_hand": _decline_by_hand,
}
"""Each raises NotAvailable where it can't be done now, and WrongWords."""


def receivers_in(words: Words) -> list[str]:
    """Every Receiver that the words name."""
    found: list[str] = []
    for name in ("receiver", "to", "from", "assigned_to"):
        value = words.get(name, [])
        found += [value] if isinstance(value, str) else value
    return found
