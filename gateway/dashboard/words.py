"""How pages write what is counted and timed: instants, spans, numbers, sizes, JSON. Pure; filters of the templates."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gateway.core.clock import to_iso

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_MOST_JSON = 16 * 1024
"""Characters of a value that a page shows."""
_CUT = "…"


def span(seconds: float) -> str:
    """Return a span of time in one or two units: ``90 ms``, ``4.2 s``, ``3 min 20 s``, ``2 d 4 h``."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (size, unit), (next_size, next_unit) in zip(_UNITS, (*_UNITS[1:], (1.0, "")), strict=True):
        if whole >= size:
            count, rest = divmod(whole, round(size))
            more = rest // round(next_size)
            return f"{count} {unit}" + (f" {more} {next_unit}" if more and next_unit else "")
    return f"{whole} s"


def iso(at: int | None) -> str:
    """Return an instant as the API writes it; an empty text for none."""
    return "" if at is None else to_iso(at)


def clock_time(at: int) -> str:
    """Return an instant as people read it, to the millisecond, in UTC."""
    day, _, time = to_iso(at).removesuffix("Z").partition("T")
    return f"{day} {time}"


def relative(at: int, now: int) -> str:
    """Return how long ago an instant was, or how far away it is."""
    apart_s = (at - now) / 1000
    if abs(apart_s) < 0.5:
        return "now"
    return f"in {span(apart_s)}" if apart_s > 0 else f"{span(-apart_s)} ago"


def grouped(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}"


def percent(part: float) -> str:
    return f"{round(100 * part)} %"


def cut(text: str, most: int = 80) -> str:
    """Return a text, or its beginning where it is longer."""
    return text if len(text) <= most else text[: most - 1] + _CUT


def pretty(data: bytes | str | None) -> str:
    """Return JSON with a member on each line; what is no JSON as it is; of what is long its beginning."""
    if data is None:
        return ""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    if len(text) <= _MOST_JSON:
        with suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    return cut(text, _MOST_JSON)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "span": span,
    "iso": iso,
    "clock_time": clock_time,
    "relative": relative,
    "grouped": grouped,
    "percent": percent,
    "cut": cut,
    "pretty": pretty,
}
