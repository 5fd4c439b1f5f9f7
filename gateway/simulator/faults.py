"""What can go wrong with the simulated upstream's answers, when, and how the answer is spoiled.

Pure: random numbers are passed in. Called by ``gateway.simulator.app``, which asks ``Faults.pick`` once for each
request and does itself what needs a socket: hang, slow, reset.
"""

import copy
from collections.abc import Callable, Sequence
from enum import StrEnum
from random import Random
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from gateway.simulator.scenario import error_envelope

Endpoint = Literal["recordInfo", "createTask"]
ErrorBody = Callable[[int, str, Any], Any]
"""Builds an API's body of an error from its status or code, its words and its data."""


class FaultKind(StrEnum):
    """The ways an answer can be wrong."""

    # The request is refused before anything is done with it.
    ERROR = "error"  # an envelope with any HTTP status and code: status=200, code=422 is the family's other manner
    KEY_REFUSED = "keyRefused"  # 401
    BLOCKED = "blocked"  # the CDN's bare 403, body "error code: 1010"
    HTML = "html"  # a proxy's error page
    # The request is carried out, and its answer spoiled or lost.
    TRUNCATED = "truncated"  # JSON that stops in the middle, under a content-length that says it is whole
    INVALID_UTF8 = "invalidUtf8"
    ARRAY = "array"  # the envelope within an array
    MISSING_DATA = "missingData"
    WRONG_TYPES = "wrongTypes"
    OVERSIZE = "oversize"  # valid JSON of more than `size` bytes
    HANG = "hang"  # no answer until the client goes away
    SLOW = "slow"  # the right answer after `delaySeconds`
    RESET = "reset"  # half of the answer, then a TCP reset
    # Small differences that the upstream's wider family shows; a client has to take them as right answers.
    MESSAGE = "message"  # `message` in place of `msg`
    RUNNING_STATE = "runningState"  # `state` in place of waiting
    RESULT_OBJECT = "resultObject"  # `resultJson` already decoded
    INTEGER_FAIL_CODE = "integerFailCode"
    OMIT_NULLS = "omitNulls"  # members that are null are left out
    EMPTY_FOR_NULL = "emptyForNull"  # "" in place of null
    EXTRA_MEMBERS = "extraMembers"  # updateTime, progress, creditsConsumed


REPLACING = frozenset({FaultKind.ERROR, FaultKind.KEY_REFUSED, FaultKind.BLOCKED, FaultKind.HTML})


class SimResponse(NamedTuple):
    """A complete HTTP response."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One thing that goes wrong; also the JSON of the control route, with names in camelCase."""

    kind: FaultKind
    endpoint: Endpoint | None = None
    """Of other APIs than the family's own: their reads and creates. None: both."""
    task_id: str | None = None
    """Only requests about this task; None: all."""
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many requests it still hits; None: until it is taken away."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    """error (500) and html (502): the HTTP status."""
    code: int | None = None
    """error: the envelope's code; the HTTP status where not given."""
    msg: str = "Simulated fault"
    data: Any = None
    """error: the envelope's data."""
    headers: dict[str, str] = {}
    """error and html: more response headers, for example Retry-After."""
    delay_s: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(default=1.0, name="delaySeconds")
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 40 << 20
    state: str = "generating"

    def replacement(self, error: ErrorBody = error_envelope) -> SimResponse:
        """Build the answer that stands in place of the request's own; for the kinds in ``REPLACING``."""
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        match self.kind:
            case FaultKind.KEY_REFUSED:
                return SimResponse(401, msgspec.json.encode(error(401, "API key is invalid", None)))
            case FaultKind.BLOCKED:
                return SimResponse(403, b"error code: 1010", b"text/plain; charset=UTF-8")
            case FaultKind.HTML:
                status = self.status or 502
                page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>nginx</body></html>"
                return SimResponse(status, page.encode(), b"text/html", headers)
            case _:
                status = self.status or 500
                code = status if self.code is None else self.code
                body = msgspec.json.encode(error(code, self.msg, self.data))
                return SimResponse(status, body, headers=headers)

    def spoil_envelope(self, envelope: dict[str, Any]) -> Any:
        """Return the JSON value to send in place of ``envelope``; kinds that spoil no member return it as it is.

        So do the kinds that spoil the family's envelope where it is another API's answer.
        """
        data = envelope.get("data")
        members: dict[str, Any] = data if isinstance(data, dict) else {}
        match self.kind:
            case FaultKind.ARRAY:
                return [envelope]
            case FaultKind.MISSING_DATA if "code" in envelope:
                return {"code": envelope["code"], "msg": envelope["msg"]}
            case FaultKind.MESSAGE if "code" in envelope:
                return {"code": envelope["code"], "message": envelope["msg"], "data": data}
            case FaultKind.OVERSIZE:
                return {**envelope, "padding": "x" * self.size}
            case FaultKind.WRONG_TYPES:
                changed = {name: _wrong_type(value) for name, value in members.items()}
            case FaultKind.RUNNING_STATE if members.get("state") == "waiting":
                changed = {**members, "state": self.state}
            case FaultKind.RESULT_OBJECT if members.get("resultJson"):
                changed = {**members, "resultJson": _decoded(members["resultJson"])}
            case FaultKind.INTEGER_FAIL_CODE if str(members.get("failCode")).isdigit():
                changed = {**members, "failCode": int(members["failCode"])}
            case FaultKind.OMIT_NULLS:
                changed = {name: value for name, value in members.items() if value is not None}
            case FaultKind.EMPTY_FOR_NULL:
                changed = {name: "" if value is None else value for name, value in members.items()}
            case FaultKind.EXTRA_MEMBERS if members:
                at = members.get("createTime", 0)
                changed = {**members, "updateTime": at, "progress": 50, "creditsConsumed": 4.5}
            case _:
                return envelope
        return {**envelope, "data": changed} if members else envelope

    def spoil_body(self, body: bytes) -> bytes:
        """Return the bytes to send in place of ``body``."""
        if self.kind is FaultKind.TRUNCATED:
            return body[: len(body) * 2 // 3]
        if self.kind is FaultKind.INVALID_UTF8:
            return body.replace(b'"msg":"', b'"msg":"\xff\xfe', 1)
        return body


class Faults:
    """The faults in force. The first that fits a request, by order and by lot, is the one it gets."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.active: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        """Put more faults in force. Copies are kept: the caller's own are not counted down."""
        self.active.extend(copy.copy(fault) for fault in faults)

    def clear(self) -> None:
        self.active.clear()

    def pick(self, endpoint: Endpoint, task_id: str | None) -> Fault | None:
        """Return the fault that this request meets, and count it down."""
        for fault in self.active:
            if fault.endpoint not in (None, endpoint) or fault.task_id not in (None, task_id):
                continue
            if fault.probability < 1 and self._rng.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    self.active.remove(fault)
            return fault
        return None


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _wrong_type(value: Any) -> Any:
    """Return a value of a type that no client can expect: numbers become words, strings numbers, null a list."""
    if isinstance(value, str):
        return 7
    return "seven" if isinstance(value, int) else []
