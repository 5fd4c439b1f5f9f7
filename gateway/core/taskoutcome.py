"""How a task ended, as a client or a receiver written in Python gets it.

Owns how the members of an outcome are read from the gateway's JSON (``gateway.api.openapi`` has them all). What the
upstream sent may be of any type, and none of it is a reason to refuse the rest: what does not fit is None here, and
stands in ``raw`` as it came. Imports nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """How a task ended."""

    state: str
    """``success``, ``fail`` or ``abandoned``."""
    model: str | None
    result: Any
    """What the upstream's ``resultJson`` holds, decoded."""
    result_urls: tuple[str, ...]
    """Those of ``result``; empty where it names none."""
    param: Any
    """What the task was created with, decoded."""
    fail_code: str | None
    fail_msg: str | None
    reason: str | None
    """Why an abandoned task was given up: ``timeout``, ``not_found``, ``refused`` or ``unreadable``."""
    cost_time_ms: float | None
    create_time: datetime | None
    complete_time: datetime | None
    extra: Mapping[str, Any]
    """What else the upstream told."""
    raw: Mapping[str, Any] = field(repr=False)
    """All members as they came."""


def read_outcome(members: Mapping[str, Any]) -> TaskOutcome:
    """Return the outcome in an object that has its members, with others or not. Raises ValueError without a state."""
    state = members.get("state")
    if not isinstance(state, str):
        raise ValueError("state is missing")  # noqa: TRY004  # it is what another server sent
    result = members.get("result")
    return TaskOutcome(
        state=state,
        model=_only(str, members.get("model")),
        result=result,
        result_urls=result_urls(result),
        param=members.get("param"),
        fail_code=_as_text(members.get("failCode")),
        fail_msg=_as_text(members.get("failMsg")),
        reason=_only(str, members.get("reason")),
        cost_time_ms=_number(members.get("costTime")),
        create_time=_instant(members.get("createTime")),
        complete_time=_instant(members.get("completeTime")),
        extra=_only(dict, members.get("extra")) or {},
        raw=members,
    )


def result_urls(result: Any) -> tuple[str, ...]:
    """Return the texts in a result's ``resultUrls``."""
    urls = result.get("resultUrls") if isinstance(result, dict) else None
    return tuple(url for url in urls if isinstance(url, str)) if isinstance(urls, list) else ()


def _only(kind: type[T], value: Any) -> T | None:
    return value if isinstance(value, kind) else None


def _as_text(value: Any) -> str | None:
    return None if value is None or isinstance(value, dict | list) else str(value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _instant(value: Any) -> datetime | None:
    """Read milliseconds since the epoch."""
    milliseconds = _number(value)
    try:
        return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)
    except (OverflowError, ValueError):  # beyond the year 9999, or NaN
        return None
