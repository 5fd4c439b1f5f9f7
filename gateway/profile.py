"""Upstream profiles: what a job API looks like, declared in TOML and checked when loaded.

Owns the shape of ``config/upstreams/*.toml``; pure. ``outcome.py`` reads answers by a profile, ``upstream.py`` makes
requests by one. A path such as ``data.state`` names members from the top of the answer, outermost first.
"""

from typing import Annotated, Any

import msgspec

from gateway.errors import ConfigError

__all__ = ["Decode", "Envelope", "Fields", "Profile", "Request", "States", "dig", "parse_profile"]

type_path = Annotated[str, msgspec.Meta(pattern=r"^[^.\s]+(\.[^.\s]+)*$")]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a task's status is asked for."""

    status_path: Annotated[str, msgspec.Meta(pattern=r"^/.*\{task_id\}")]
    """Path and query below the base URL; ``{task_id}`` is replaced, percent-encoded."""
    auth_header: str = "authorization"
    auth_prefix: str = "Bearer "
    headers: dict[str, str] = {}


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is wrapped around every answer, error answers included."""

    code: type_path | None = None
    """An error code of the API's own; where it is absent the HTTP status alone counts."""
    ok: tuple[int, ...] = (200,)
    message: list[type_path] = []
    """Paths that may hold a human's explanation, the first present one is used."""
    retry_after: type_path | None = None
    """Seconds to wait, in the body of a 429."""


class States(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which words end a task. Any other word means that it still runs."""

    path: type_path
    success: Annotated[list[str], msgspec.Meta(min_length=1)]
    fail: Annotated[list[str], msgspec.Meta(min_length=1)]


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the members of the webhook's ``data`` stand in the answer."""

    root: type_path | None = None
    """The object that describes the task; its members that no path names become ``extra``. None: the whole answer."""
    task_id: type_path | None = None
    model: type_path | None = None
    result: type_path | None = None
    param: type_path | None = None
    fail_code: type_path | None = None
    fail_msg: type_path | None = None
    cost_time: type_path | None = None
    create_time: type_path | None = None
    complete_time: type_path | None = None


class Decode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which members are JSON inside a string."""

    result: bool = False
    param: bool = False


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One job API."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    base_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s]+$")]
    request: Request
    envelope: Envelope = Envelope()
    states: States
    fields: Fields = Fields()
    json_in_string: Decode = Decode()


def parse_profile(text: str, source: str) -> Profile:
    """Read one profile; raise ConfigError naming ``source``, the key and the reason."""
    try:
        profile = msgspec.toml.decode(text.encode(), type=Profile)
    except msgspec.ValidationError as exc:
        reason, _, where = str(exc).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        raise ConfigError([f"{source}: {key + ': ' if key else ''}{reason}"]) from exc
    except msgspec.DecodeError as exc:
        raise ConfigError([f"{source}: not valid TOML: {exc}"]) from exc
    overlap = set(profile.states.success) & set(profile.states.fail)
    if overlap:
        raise ConfigError([f"{source}: states: {sorted(overlap)} cannot mean both success and fail"])
    return profile


def dig(answer: Any, path: str | None) -> Any:
    """Return what stands at a path, None where it or anything on the way is absent."""
    if path is None:
        return None
    for name in path.split("."):
        if not isinstance(answer, dict):
            return None
        answer = answer.get(name)
    return answer
