"""The profiles' files: folders of TOML → profiles by name, and everything that is wrong with one at once.

Owns the reading by ``profile``'s shape, and what parts may not say against one another. Called by ``upstreams``.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from gateway.config.profile import (
    PATH,
    TASK_ID,
    WAITING,
    Fields,
    Profile,
    dig,
    listed,
    names_of,
    passed_calls,
    record_call,
)
from gateway.core.errors import ConfigError
from gateway.core.jsontemplate import mistakes
from gateway.core.textfile import read_text

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_WILDCARD = re.compile(r"\{([A-Za-z_]\w*)(?::path)?\}", re.ASCII)
_PATH = re.compile(r"/(?:[^\s?#{}]|\{[A-Za-z_]\w*(?::path)?\})*", re.ASCII)
_ROUTE = "a path has no query, and {name} or {name:path} where it is not fixed, each name once"
# What says how a message is framed, belongs to one connection, is asked of the gateway's own reader, or is made anew.
_OWN_HEADERS = re.compile(
    r"authorization|content-(length|type|encoding)|host|user-agent|accept-encoding|expect|connection|keep-alive|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade|http2-settings|cookie|x-request-id"
)


def config_dir() -> Path:
    """Return the folder of the shipped configuration: inside an installed wheel, or the checkout's ``config``."""
    package = Path(__file__).parents[1]
    installed = package / "_config"
    return installed if installed.is_dir() else package.parent / "config"


def read_profiles(folders: Sequence[Path]) -> tuple[dict[str, Profile], list[str]]:
    """Read every ``*.toml`` of the folders, hidden ones aside; a profile takes the place of an earlier folder's.

    The shipped folder is always there: one that cannot be read is the operator's, who named it in GATEWAY_PROFILES.

    Returns the profiles that can be used, and the mistakes of the others: the file, the key and the reason.
    """
    profiles: dict[str, Profile] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            # Editors and macOS leave hidden files that are no profiles: .#mine.toml, ._mine.toml.
            found = (path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
            paths = sorted(found)
        except OSError as exc:
            why = "there is no such folder" if isinstance(exc, FileNotFoundError) else exc.strerror or str(exc)
            problems.append(f"GATEWAY_PROFILES: got {str(folder)!r}; {why}: name a folder that this user may read")
            continue
        for path in paths:
            try:
                profile = parse_profile(read_text(path), str(path))
            except ConfigError as exc:
                problems.extend(exc.problems)
            except UnicodeDecodeError:
                problems.append(f"{path}: it is not a text file in UTF-8")
            except OSError as exc:
                problems.append(f"{path}: {exc.strerror or exc}")
            else:
                if profile.name != path.stem:
                    problems.append(f"{path}: name: got {profile.name!r}; write the name of the file, {path.stem!r}")
                profiles[profile.name] = profile
    return profiles, problems


def parse_profile(text: str, source: str) -> Profile:
    """Read one profile. Raises ConfigError with a line for each mistake: ``source``, the key and the reason."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{source}: not valid TOML: {exc}"]) from exc
    try:
        profile = msgspec.convert(table, Profile)
    except msgspec.ValidationError:
        problems = [*_mistakes(table, Profile, ""), *_contradictions(_draft(table, Profile))]
    else:
        problems = [*_contradictions(profile)]
        if not problems:
            return profile
    raise ConfigError([f"{source}: {problem}" for problem in problems])


# Each key by itself: msgspec stops at the first mistake.


def _mistakes(value: Any, to: Any, key: str) -> Iterator[str]:
    """Yield what keeps a value from being of a type: of its parts, else of itself."""
    try:
        msgspec.convert(value, to)
    except msgspec.ValidationError as exc:
        found = [problem for part, kind, name in _parts(value, to, key) for problem in _mistakes(part, kind, name)]
        found.extend(_wrong_keys(value, to, key))
        yield from found or [_line(key, str(exc).partition(" - at ")[0])]


def _parts(value: Any, to: Any, key: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield what a value is made of, each part with its type and name."""
    for kind in _alternatives(to):
        args = get_args(kind)
        if isinstance(value, list) and get_origin(kind) in (list, tuple):
            yield from ((item, args[0], f"{key}[{number}]") for number, item in enumerate(value))
        elif isinstance(value, dict) and get_origin(kind) is dict:
            for name, item in value.items():
                yield name, args[0], f"{key}[{name!r}]"
                yield item, args[1], f"{key}[{name!r}]"
        elif isinstance(value, dict) and _is_section(kind):
            fields = msgspec.structs.fields(kind)
            names = [(one.encode_name, one.type) for one in fields]
            yield from ((value[name], to, _below(key, name)) for name, to in names if name in value)


def _wrong_keys(value: Any, to: Any, key: str) -> Iterator[str]:
    section = _section(value, to)
    if section is not None:
        fields = {field.encode_name: field for field in msgspec.structs.fields(section)}
        yield from (_line(key, f"Object contains unknown field `{name}`") for name in value if name not in fields)
        missing = (name for name, field in fields.items() if field.required and name not in value)
        yield from (_line(key, f"Object missing required field `{name}`") for name in missing)


def _section(value: Any, to: Any) -> Any:
    """Return the section that a value is to be, None where it is to be none or is no table."""
    return next(filter(_is_section, _alternatives(to)), None) if isinstance(value, dict) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _alternatives(to: Any) -> tuple[Any, ...]:
    """Return the types that a value may be of."""
    if get_origin(to) is Annotated:
        to = get_args(to)[0]
    return (to,) if isinstance(to, type) or get_origin(to) in (list, tuple, dict) else get_args(to)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _line(key: str, reason: str) -> str:
    return f"{key}: {reason}" if key else reason


# The parts against one another.


class _Mistaken(Exception):
    """Nothing can be said of a key: it is reported already."""


class _Draft:
    """Of a section what could be read; whoever asks for more stops."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            raise _Mistaken
        return self._values[name]


def _draft(table: dict[str, Any], to: Any) -> _Draft:
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(to):
        given: Any = table.get(field.encode_name)
        if field.encode_name not in table:
            if field.default is not msgspec.NODEFAULT:
                values[field.name] = field.default
            elif field.default_factory is not msgspec.NODEFAULT:
                values[field.name] = field.default_factory()
        elif (section := _section(given, field.type)) is not None:
            values[field.name] = _draft(given, section)
        else:
            with suppress(msgspec.ValidationError):
                values[field.name] = msgspec.convert(given, field.type)
    return _Draft(values)


def _contradictions(profile: Any) -> Iterator[str]:
    """Yield what the parts of a profile, or of the draft of one, say against one another."""
    for check in _CHECKS:
        with suppress(_Mistaken):
            yield from check(profile)


def _codes(profile: Any) -> Iterator[str]:
    if both := sorted({str(code) for code in profile.envelope.ok} & profile.envelope.kinds.keys()):
        yield f"envelope.kinds: {both} cannot be errors and ok"


def _ends_apart(profile: Any) -> Iterator[str]:
    states = profile.states
    overlap = set(states.success) & set(states.fail)
    if overlap and (states.success_if is None or states.fail_if is None) and _alike(profile):
        yield f"states: {sorted(overlap)} cannot mean both success and fail without success_if and fail_if"


def _not_known_ends_none(profile: Any) -> Iterator[str]:
    states = profile.states
    overlap = set(states.not_known) & {*states.success, *states.fail}
    if overlap and _alike(profile):
        yield f"states.not_known: {sorted(overlap)} cannot end the task as well"


def _paths(profile: Any) -> Iterator[str]:
    for key in ("result", "fail_code", "fail_msg", "cost_time", "create_time", "complete_time"):
        with suppress(_Mistaken):
            if wrong := [path for path in listed(getattr(profile.fields, key)) if not re.match(PATH, path)]:
                yield f"fields.{key}: {wrong} cannot be paths; write names with dots between them, such as data.result"


def _headers(profile: Any) -> Iterator[str]:
    request = profile.request
    if request.auth_header.lower() in {name.lower() for name in request.headers}:
        yield f"request.headers: {request.auth_header} carries the key; see request.auth_header"


def _proxy_calls(profile: Any) -> Iterator[str]:
    proxy = profile.proxy
    if proxy is None:
        return
    with suppress(_Mistaken):
        wrong = [path for path in listed(proxy.create_path) if not _is_route(path)]
        if wrong or not proxy.create_path:
            yield f"proxy.create_path: {wrong} cannot be served; {_ROUTE}"
    with suppress(_Mistaken):
        calls = passed_calls(proxy.passed)
        if wrong := [call for call, (method, path) in calls.items() if method not in _METHODS or not _is_route(path)]:
            yield f"proxy.pass: {wrong} cannot be served; write /path, or a method before it, such as DELETE; {_ROUTE}"


def _proxy_reads(profile: Any) -> Iterator[str]:
    proxy = profile.proxy
    if proxy is None:
        return
    if (proxy.record_path is None) != (proxy.record_param is None):
        yield "proxy: record_path and record_param go together"
    elif (call := record_call(profile.request, proxy)) is None:
        yield (
            "proxy: needs record_path and record_param, as tasks are not read with GET by an id that is a part of "
            "the path or a parameter of its own in request.status_path"
        )
    elif not _is_route(call.path) or not {"task_id"}.issuperset(_WILDCARD.findall(call.path)):
        yield f"proxy: {call.path!r} of request.status_path cannot be served: {TASK_ID} once is all that is not fixed"


def _proxy_headers(profile: Any) -> Iterator[str]:
    if profile.proxy is None:
        return
    key = profile.request.auth_header.lower()
    if wrong := [name for name in profile.proxy.headers if _OWN_HEADERS.fullmatch(name.lower()) or name.lower() == key]:
        yield f"proxy.headers: {wrong} are the gateway's own to send, or may hold its token"


def _proxy_paths(profile: Any) -> Iterator[str]:
    if profile.proxy is None:
        return
    envelope, root = profile.envelope, profile.fields.root
    # What the gateway writes, of several paths the first: in its errors, and where it tells of tasks.
    members = [envelope.code, envelope.success, envelope.message, envelope.retry_after]
    if profile.proxy.synthesize:
        own = (getattr(profile.fields, name) for name in Fields.__struct_fields__ if name != "root")
        members += [profile.states.path, *own]
    paths = [names_of(several[0]) for several in map(listed, members) if several]
    if numbers := [".".join(names) for names in paths if any(map(str.isdecimal, names))]:
        yield f"proxy: {numbers} cannot be written: a number picks an item of an array"
    # The root is there already where something stands below it.
    below = paths if root is None else [*paths, (*names_of(root), "*")]
    if taken := [".".join(one) for one in paths if any(one == other[: len(one)] != other for other in below)]:
        yield f"proxy: {taken} cannot be written: other members stand below"


def _created_record(profile: Any) -> Iterator[str]:
    proxy, states = profile.proxy, profile.states
    if proxy is None or (told := proxy.created_record) is None:
        return
    yield from (f"proxy.created_record: {problem}" for problem in mistakes(told))
    if proxy.synthesize or proxy.created_is_record:
        yield "proxy.created_record: synthesize and created_is_record tell that already"
    for name in () if profile.fields.root is None else reversed(names_of(profile.fields.root)):
        told = {name: told}
    state, ends = dig(told, states.path), _alike(profile)
    if states.ignore_case and isinstance(state, str):
        state, ends = state.casefold(), list(_without_case(profile))
    if (type(state), state) in [(type(word), word) for word in ends] or (state is None and not states.may_be_absent):
        yield f"proxy.created_record: needs a state at {states.path} that does not end the task"
    if profile.fields.task_id is not None and dig(told, profile.fields.task_id) != "{taskId}":
        yield f'proxy.created_record: needs "{{taskId}}" at {profile.fields.task_id}'


def _callback(profile: Any) -> Iterator[str]:
    if profile.callback is None:
        return
    for key in ("success", "fail"):
        with suppress(_Mistaken):
            yield from (f"callback.{key}: {problem}" for problem in mistakes(getattr(profile.callback, key)))


def _is_route(path: str) -> bool:
    """Whether a router takes it: every part that is not fixed has a name of its own."""
    names = _WILDCARD.findall(path)
    return _PATH.fullmatch(path) is not None and len(names) == len(set(names))


def _rule(problem: str, holds: Callable[[Any], bool]) -> Callable[[Any], Iterable[str]]:
    return lambda profile: () if holds(profile) else (problem,)


# One row for each contradiction: of a draft those are passed over that need what is mistaken.
# fmt: off
_CHECKS: tuple[Callable[[Any], Iterable[str]], ...] = (
    _rule("states: success, fail and not_known need values of one kind: all text, all numbers, or true and false",
          lambda profile: len({type(word) for word in _words(profile)}) <= 1),
    _headers,
    _rule('request.body: needs method = "POST"',
          lambda profile: profile.request.body is None or profile.request.method == "POST"),
    _rule(f"request.status_path: has no {TASK_ID}, which may stand in request.body instead",
          lambda profile: TASK_ID in profile.request.status_path or _holds_task_id(profile.request.body)),
    _rule("states.ignore_case: some of the values differ in nothing but their case",
          lambda profile: not profile.states.ignore_case or len(_without_case(profile)) == len(set(_alike(profile)))),
    _codes,
    _rule('units.zone: only times with time = "iso" have a zone',
          lambda profile: profile.units.zone is None or profile.units.time == "iso"),
    _ends_apart, _not_known_ends_none, _paths,
    _rule("states.may_be_absent: needs fields.task_id, else any answer at all would mean running",
          lambda profile: not profile.states.may_be_absent or profile.fields.task_id is not None),
    _rule("fields.task_id_may_be_part: needs fields.task_id",
          lambda profile: not profile.fields.task_id_may_be_part or profile.fields.task_id is not None),
    _rule("proxy.synthesize: needs envelope.code",
          lambda profile: not _synthesizes(profile) or profile.envelope.code is not None),
    _rule("proxy.synthesize: needs states that are words",
          lambda profile: not _synthesizes(profile) or all(isinstance(word, str) for word in _alike(profile))),
    _rule(f"proxy.synthesize: a running task is told as {WAITING}, which cannot be one of the states that end it",
          lambda profile: not _synthesizes(profile) or (WAITING not in _alike(profile) and not (
              profile.states.ignore_case and WAITING in _without_case(profile)))),
    _rule("proxy.synthesize: an end is told by the state alone, without states.success_if and fail_if",
          lambda profile: not _synthesizes(profile) or (
              profile.states.success_if is None and profile.states.fail_if is None)),
    _rule("proxy.synthesize: needs [units] that are milliseconds",
          lambda profile: not _synthesizes(profile) or (profile.units.time, profile.units.cost) == ("ms", "ms")),
    _proxy_calls, _proxy_reads, _proxy_headers, _proxy_paths, _created_record, _callback,
)
# fmt: on


def _synthesizes(profile: Any) -> bool:
    return profile.proxy is not None and profile.proxy.synthesize


def _words(profile: Any) -> list[Any]:
    states = profile.states
    return [*states.success, *states.fail, *states.not_known]


def _alike(profile: Any) -> list[Any]:
    """Return the states' values; where they are of several kinds that is the mistake, and all to be said of them."""
    words = _words(profile)
    if len({type(word) for word in words}) > 1:
        raise _Mistaken
    return words


def _without_case(profile: Any) -> set[str]:
    return {word.casefold() if isinstance(word, str) else word for word in _alike(profile)}


def _holds_task_id(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_task_id, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and TASK_ID in value
