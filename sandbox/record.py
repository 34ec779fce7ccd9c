"""The record of everything that the sandbox sent, received and did, in the order in which it ended."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, overload

import orjson


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """One attempt to deliver one webhook; a row of the Webhook Call History.

    `at`: Unix seconds when it began; `seconds`: how long it took. `response_code` is None where no answer
    came, and `error` says why: `timeout`, `unreachable`, `dropped`, or by trouble `lost` (never sent) and
    `cut`. `cause`: `event`, `retry`, `redeliver`, `duplicate` or `sent` (by hand). `signed`: False where
    the signature was made wrong on purpose.
    """

    kind: ClassVar[str] = "webhook"
    id: str
    at: float
    receiver: str
    webhook_id: str
    request_id: str
    event_id: str
    action: str
    status: str
    attempt: int
    cause: str
    response_code: int | None
    error: str | None
    seconds: float
    body: bytes
    signature: str
    signed: bool = True

    @property
    def taken(self) -> bool:
        """Whether the Receiver answered 2xx in time."""
        return self.response_code is not None and 200 <= self.response_code < 300


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call to the API or the token endpoint.

    `receiver`: whose token it was, empty if nobody's. `token`: `good`, `none`, `unknown`, `expired`,
    `revoked` (by trouble) or `deleted`. `took_effect`: whether it changed anything. `answered`: False where
    the connection was cut, by trouble or by the caller, before the answer; `answer_status` is then what would
    have been answered.
    `trouble`: what was done to the call on purpose. `body` is empty for the token endpoint. `token_mark`
    tells tokens apart without telling them.
    """

    kind: ClassVar[str] = "call"
    at: float
    receiver: str
    method: str
    path: str
    call: str
    request_id: str
    answer_status: int
    error_code: str | None
    seconds: float
    token: str
    took_effect: bool
    answered: bool
    trouble: str | None
    body: bytes
    token_mark: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that the Requester, a competitor or time did: broadcast, cancel, assign, expire and so on."""

    kind: ClassVar[str] = "deed"
    at: float
    what: str
    request_id: str
    receivers: tuple[str, ...] = ()


Entry = WebhookAttempt | ApiCall | Deed
KINDS: dict[str, type[Entry]] = {c.kind: c for c in (WebhookAttempt, ApiCall, Deed)}


def to_json(entry: Entry) -> dict[str, Any]:
    """The entry with its `kind`; bytes become text where they are UTF-8, else `{"hex": …}`."""
    values = {"kind": entry.kind, **asdict(entry)}
    body = values.get("body")
    if isinstance(body, bytes):
        try:
            values["body"] = body.decode("utf-8")
        except UnicodeDecodeError:
            values["body"] = {"hex": body.hex()}
    return values


def from_json(values: dict[str, Any]) -> Entry:
    """The entry again. Unknown fields are left out. Raises KeyError or TypeError for what is no entry."""
    cls = KINDS[values["kind"]]
    known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
    body = known.get("body")
    if body is not None:
        known["body"] = bytes.fromhex(body["hex"]) if isinstance(body, dict) else body.encode("utf-8")
    if "receivers" in known:
        known["receivers"] = tuple(known["receivers"])
    return cls(**known)


class Record(Sequence[Entry]):
    """All entries, or the newest `keep` of them; also appended to a file as JSON lines where one is named.

    `total` counts all that ever came, so that a reader can go on where it stopped with `since`.
    """

    def __init__(self, keep: int | None = None, path: str | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._listeners: list[Callable[[Entry], None]] = []
        self._file: BinaryIO | None = Path(path).open("ab") if path else None  # noqa: SIM115 - until close()
        self.total = 0

    def append(self, entry: Entry) -> None:
        """Adds an entry and tells the listeners."""
        self._entries.append(entry)
        self.total += 1
        if self._file:
            self._file.write(orjson.dumps(to_json(entry)) + b"\n")
            self._file.flush()
        for listener in self._listeners:
            listener(entry)

    def deed(self, what: str, request_id: str, receivers: Sequence[str] = ()) -> None:
        """Adds a Deed that happened now."""
        self.append(Deed(time.time(), what, request_id, tuple(receivers)))

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Calls `listener` with every new entry until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def since(self, position: int) -> list[Entry]:
        """The entries from the `position`th that ever came; those that were let go are missing."""
        first = self.total - len(self._entries)
        return list(self._entries)[max(0, position - first) :]

    def webhooks(self) -> list[WebhookAttempt]:
        """The attempts to deliver webhooks."""
        return [e for e in self._entries if isinstance(e, WebhookAttempt)]

    def calls(self, call: str | None = None) -> list[ApiCall]:
        """The API calls, or those of one name."""
        return [e for e in self._entries if isinstance(e, ApiCall) and call in (None, e.call)]

    def to_json(self) -> list[dict[str, Any]]:
        """All entries as JSON values."""
        return [to_json(entry) for entry in self._entries]

    def recall(self, path: Path) -> None:
        """Takes in what an earlier run wrote; a line that was cut off by a crash is left out."""
        line = b"\n"
        with path.open("rb") as lines:
            for line in lines:
                with suppress(orjson.JSONDecodeError):
                    self._entries.append(from_json(orjson.loads(line)))
                    self.total += 1
        if self._file and self._file.tell() and not line.endswith(b"\n"):
            self._file.write(b"\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries))

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return list(self._entries)[index]
