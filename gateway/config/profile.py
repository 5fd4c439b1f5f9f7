"""Upstream profiles: what a job API looks like, declared in TOML; which the manual explains to operators.

Pure: ``profilefile`` reads the files. Answers are read and requests made by a profile, and the proxy's routes and the
rate limits taken from one. The manual's page of the keys is made of what stands here below each of them.

A path such as ``data.state`` names members from the top of the answer, outermost first; a number picks an item of an
array (``errors.data.0.message``). Where several paths may be given, the first that holds something counts.
"""

from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote

import msgspec

from gateway.core.ratelimit import RateWindow

PATH = r"^[^.\s]+(\.[^.\s]+)*\Z"
type_path = Annotated[str, msgspec.Meta(pattern=PATH)]
# Checked in profilefile.py: msgspec 0.22 corrupts memory, and dies at exit, on str with a pattern | list.
type_paths = str | list[str]
type_member = Annotated[str, msgspec.Meta(min_length=1)]
type_header = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]+\Z")]
# A line break in a value would end the header and start another.
type_header_value = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]*\Z")]
type_word = str | int | bool
type_kind = Literal["not_known", "throttled", "key_refused", "credits", "maintenance", "broken"]
TASK_ID = "{task_id}"
WAITING = "waiting"
"""What a running task's state is told as: a word that ends none means that it runs."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[request]``: how a task's status is asked for."""

    status_path: Annotated[str, msgspec.Meta(pattern=r"^/[^\s#]*\Z")]
    """Path and query below the base URL; ``{task_id}`` is replaced, percent-encoded."""
    method: Literal["GET", "POST"] = "GET"
    """How it is asked for."""
    body: dict[str, Any] | None = None
    """The JSON object that a POST sends; ``{task_id}`` is replaced within its strings."""
    task_id_has_slashes: bool = False
    """Task ids are paths of their own (``operations/x``): their slashes go into the URL as they are."""
    auth_header: type_header = "authorization"
    """The header that carries the key."""
    auth_prefix: type_header_value = "Bearer "
    """What stands before the key; the empty text where the API wants it bare."""
    headers: dict[type_header, type_header_value] = {}
    """More headers of every request, such as the version of the API."""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[envelope]``: what is wrapped around every answer, error answers included."""

    code: type_path | None = None
    """An error code of the API's own; where it is absent, or a word where ``ok`` and ``kinds`` have none, the HTTP
    status alone counts."""
    ok: tuple[int | str, ...] = (200,)
    """The codes that are no error: numbers, which may arrive as text, or words."""
    kinds: dict[str, type_kind] = {}
    """What codes mean, the envelope's or HTTP's: ``{ 1004 = "key_refused", Arrearage = "credits" }``; one of
    ``not_known``, ``throttled``, ``key_refused``, ``credits``, ``maintenance``, ``broken``. Others mean what they do to
    the family: 401 and 403, 402 and 433, 404 and 422 (HTTP's own only where ``code`` is not given), 429, 455, 503 and
    505."""
    success: type_path | None = None
    """A member that is false in an error answer, whatever its code."""
    message: list[type_path] = []
    """Paths that may hold a human's explanation; what is no text is shown as JSON. Where ``code`` is not given, an
    error without any is not taken for the API's."""
    retry_after: type_path | None = None
    """Seconds to wait, in the body of a 429."""
    limit: type_path | None = None
    """How many requests the key may make, in the body of a 429 …"""
    window: type_path | None = None
    """… within so many seconds."""


class States(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[states]``: which values end a task. Any other value means that it still runs.

    Values are words, whole numbers or true and false, all of one kind; numbers may arrive as text.
    """

    path: type_path
    """Where the state stands."""
    success: Annotated[list[type_word], msgspec.Meta(min_length=1)]
    """The values of a task that has succeeded."""
    fail: Annotated[list[type_word], msgspec.Meta(min_length=1)]
    """Those of one that has failed."""
    not_known: list[type_word] = []
    """Values that say that there is no such task: treated like a 404, never as the task's end."""
    success_if: type_path | None = None
    """It is a success only where this member is there as well: for an API that says no more than "done"."""
    fail_if: type_path | None = None
    """It is a failure only where this member is there as well."""
    fail_if_set: list[type_path] = []
    """Whatever the state, the task has failed where one of these members holds something: not null, false or empty."""
    fail_if_false: list[type_path] = []
    """Whatever the state, the task has failed where one of these members is false, in an answer that is no error."""
    ignore_case: bool = False
    """Words are the same in capitals and in small letters."""
    may_be_absent: bool = False
    """An answer that names the task and no state means running: protobuf's JSON leaves out what is false or 0."""
    progress: type_path | None = None
    """How far a running task has come; nothing is made of it yet."""
    progress_full: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """The progress of a finished task: 1, or 100 where it is told in percent."""


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[fields]``: where the members of the webhook's ``data`` stand in the answer; null where no path is given."""

    root: type_path | None = None
    """The object that describes the task; what no path names of it becomes ``extra``. Left out: the whole answer."""
    task_id: type_path | None = None
    """An answer that names another task than the one asked for is refused."""
    task_id_may_be_part: bool = False
    """The answer may name a part of the id that was asked for, between slashes: ``abc`` of ``video/requests/abc``."""
    model: type_path | None = None
    """Which model works on the task; how long tasks take is learned for each."""
    result: type_paths | None = None
    """What the task has made."""
    param: type_path | None = None
    """The parameters that the task was created with."""
    fail_code: type_paths | None = None
    """Why it has failed, as a code. Objects, arrays and numbers become their JSON text, here and in ``fail_msg``. Both
    are null but on failure."""
    fail_msg: type_paths | None = None
    """Why it has failed, in words."""
    cost_time: type_paths | None = None
    """How long the task took."""
    create_time: type_paths | None = None
    """When it was created."""
    complete_time: type_paths | None = None
    """When it ended."""


class Decode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[json_in_string]``: which members are JSON inside a string. One that already is an object stays as it is."""

    result: bool = False
    """The member that ``fields.result`` names."""
    param: bool = False
    """The one that ``fields.param`` names."""


class Units(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[units]``: how times are written. In the webhook all of them are milliseconds."""

    time: Literal["ms", "s", "iso"] = "ms"
    """``create_time`` and ``complete_time``: since the epoch in milliseconds or seconds, or ISO 8601."""
    zone: Annotated[str, msgspec.Meta(pattern=r"^(Z|[+-]\d\d:\d\d)\Z")] | None = None
    """What ISO 8601 without a zone is in: ``Z`` or ``+08:00``. Left out: such a time is not told."""
    cost: Literal["ms", "s"] = "ms"
    """``cost_time``."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[limits]``: what one key may do where the operator sets nothing else; all windows hold at once.

    A window is ``{ limit = 2, window_s = 1 }``: two requests within one second.
    """

    query: tuple[RateWindow, ...] = ()
    """Asking for the state of tasks. Empty: the API's pages name no limit."""
    create: tuple[RateWindow, ...] = ()
    """Creating tasks."""
    poll_min_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Least seconds between two polls of one task, where the API's pages ask for that."""


class RecordCall(NamedTuple):
    """The API's own call that tells a task's state."""

    path: str
    """As the router takes it; the task's id is the one part that is not fixed, where it stands there."""
    param: str | None
    """The query parameter that names the task; None: the path does."""
    target: str
    """Path and query at the upstream; ``{task_id}`` is replaced."""


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[proxy]``: the API's own calls, for clients that use the gateway as their base URL.

    In a path ``{name}`` stands for one segment, whatever it is, and ``{name:path}`` for any number of them.
    """

    create_path: type_paths
    """Where tasks are created, with POST: one path or several."""
    created_id: type_path
    """Where the new task's id stands in the answer to that."""
    callback_members: list[type_member] = []
    """Members of a create request that name a callback URL: taken out of it, and registered."""
    callback_options: list[type_member] = []
    """Members that say no more than when that URL is called: taken out with it, as the gateway sends the end alone."""
    callback_stand_in: Annotated[str, msgspec.Meta(pattern=r"^https?://[!#-\[\]-~]+\Z")] | None = None
    """A URL that goes on in place of the one that is taken out, for an API that refuses a create without."""
    synthesize: bool = False
    """The gateway writes answers about tasks as the API does; else it only passes on what the API has said. It needs
    ``envelope.code``, states that are words, milliseconds, no number in a path, and no ``success_if`` or
    ``fail_if``."""
    created_is_record: bool = False
    """The answer to a create is all that a read of the task would tell."""
    created_record: dict[str, Any] | None = None
    """What a read tells of a task that was created just now, where the answer to the create does not, with gaps as in
    ``[callback]``. It stands at ``fields.root``; its gaps are ``taskId``, ``model``, ``createTime`` (as in
    ``units.time``) and ``param``, the create's body. Left out, without ``synthesize``: its first read is forwarded."""
    once: bool = False
    """The API returns the task that exists where X-Request-ID is one that it has seen."""
    record_path: Annotated[str, msgspec.Meta(pattern=r"^/[^\s?#{}]*\Z")] | None = None
    """Where a task's state is asked for, with GET. Left out: where ``request.status_path`` says."""
    record_param: type_member | None = None
    """The query parameter of that which names the task."""
    headers: list[type_header] = []
    """Headers of clients' creates and passed calls that go on to the API."""
    passed: list[str] = msgspec.field(name="pass", default_factory=list)
    """Other calls that are forwarded with the key: ``"DELETE /path"``, or the path alone for GET."""


class OwnCallbacks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[callback]``: the JSON that the API's own callbacks hold, for webhooks of format record, where that is not the
    object at ``fields.root``.

    ``"{a.b}"`` is what stands in that object, left out where nothing does; ``"{a.b|other}"`` has ``other`` then, and
    for what is null or empty; ``"{}"`` is null; in an array ``["{a.*.b}"]`` is one for each item of ``a``. Of a task
    that was abandoned the code is 408.
    """

    success: dict[str, Any]
    """Of a task that has succeeded."""
    fail: dict[str, Any]
    """Of one that has failed."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One job API."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\Z")]
    """What callbacks name it by; also the name of the file."""
    base_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s?#]+\Z")]
    request: Request
    envelope: Envelope = Envelope()
    states: States
    fields: Fields = Fields()
    json_in_string: Decode = Decode()
    units: Units = Units()
    limits: Limits = Limits()
    proxy: Proxy | None = None
    """None: the API has no calls that the gateway could stand in for."""
    callback: OwnCallbacks | None = None
    """None: they hold the object that describes the task, see ``wraps_records``."""

    @cached_property
    def named_members(self) -> frozenset[str]:
        """The members of the object that describes the task which a path leads to; the others become ``extra``."""
        prefix = () if self.fields.root is None else names_of(self.fields.root)
        named = set()
        for paths in (self.states.path, *msgspec.structs.astuple(self.fields)[1:]):
            for path in listed(paths):
                names = names_of(path)
                if names[: len(prefix)] == prefix and len(names) > len(prefix):
                    named.add(names[len(prefix)])
        return frozenset(named)

    @property
    def wraps_records(self) -> bool:
        """Whether a webhook of format record has the family's envelope around the object that describes the task.

        Where no code of the API's own is wrapped around its answers, its own webhooks hold that object alone.
        """
        return self.envelope.code is not None and self.fields.root is not None

    @property
    def synthesizes(self) -> bool:
        """Whether the gateway writes answers about tasks as the API does."""
        return self.proxy is not None and self.proxy.synthesize

    @cached_property
    def nests_members(self) -> bool:
        """Whether a path leads to something within a member of the object that describes the task.

        What else stands in that member is in no outcome.
        """
        depth = 1 if self.fields.root is None else len(names_of(self.fields.root)) + 1
        several = (self.states.path, *msgspec.structs.astuple(self.fields)[1:])
        return any(len(names_of(path)) > depth for paths in several for path in listed(paths))

    @cached_property
    def checked_paths(self) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], tuple[str, ...]]:
        """The paths of what a webhook tells in full, and of the result, and of the input; of each member all of them.

        The members are id, state, code and words of a failure, duration, creation and end.
        """
        fields = self.fields
        told = (fields.task_id, self.states.path, fields.fail_code, fields.fail_msg)
        times = (fields.cost_time, fields.create_time, fields.complete_time)
        members = tuple(tuple(listed(paths)) for paths in (*told, *times))
        return members, tuple(listed(fields.result)), tuple(listed(fields.param))

    @cached_property
    def spellings(self) -> dict[str, str]:
        """The words of the states as they are written here, by their spelling without case."""
        states = self.states
        words = (word for word in (*states.success, *states.fail, *states.not_known) if isinstance(word, str))
        return {word.casefold(): word for word in words}

    @cached_property
    def codes_are_words(self) -> bool:
        """Whether a word may be an error code."""
        return any(not str(code).isdecimal() for code in (*self.envelope.ok, *self.envelope.kinds))


def record_call(request: Any, proxy: Any) -> RecordCall | None:
    """Return the call by which clients read a task, None where the profile describes none that can be served."""
    if proxy.record_path is not None:
        path, param = proxy.record_path, proxy.record_param
        return RecordCall(path, param, f"{path}?{quote(param)}={TASK_ID}")
    path, _, query = request.status_path.partition("?")
    names = [name for name, value in parse_qsl(query) if value == TASK_ID]
    if request.method != "GET" or (not names if TASK_ID in query else TASK_ID not in path):
        return None
    segment = "{task_id:path}" if request.task_id_has_slashes else TASK_ID
    return RecordCall(path.replace(TASK_ID, segment), names[0] if names else None, request.status_path)


def passed_calls(passed: list[str]) -> dict[str, tuple[str, str]]:
    """Return method and path of each call of ``[proxy] pass``, by how it is written there."""
    words = {one: one.partition(" ") for one in passed}
    return {one: (method, path) if path else ("GET", method) for one, (method, _, path) in words.items()}


def dig(answer: Any, path: str | list[str] | None) -> Any:
    """Return what stands at a path, None where it or anything on the way is absent.

    Of several paths the first one that holds something counts: neither null nor the empty text.
    """
    if path is None:
        return None
    # By the exact types, which are all that JSON is read into: nothing else is done as often for an answer.
    if type(path) is not str:
        return next((found for one in path if (found := dig(answer, one)) not in (None, "")), None)
    for name in names_of(path):
        if type(answer) is dict and name in answer:
            answer = answer[name]
        elif type(answer) is list and name.isdecimal() and len(name) < 5 and int(name) < len(answer):
            answer = answer[int(name)]
        else:
            return None
    return answer


@lru_cache(maxsize=1024)  # profiles have a few dozen paths, and each is followed in every answer
def names_of(path: str) -> tuple[str, ...]:
    """Return the members that a path names, outermost first."""
    return tuple(path.split("."))


def listed(paths: Any) -> list[str]:
    """Return one path or several as a list; what is no path is none."""
    return [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else []
