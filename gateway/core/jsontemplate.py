"""JSON with gaps, which another JSON value fills: how a profile describes what an API's own callbacks hold.

Pure. A text ``"{a.b}"`` is the value that stands there, and the member that it is left out where there is none;
``"{a.b|other}"`` is ``other`` where there is none, or it is null or empty; ``"{}"`` is null. In an array of one item
``"{a.*.b}"`` stands for that item once for each of those of ``a``. What is JSON in a text is gone into as well, and
read as leniently, and as seldom, as what it stands in.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec

from gateway.core import lenientjson

_GAP = re.compile(r"\{([^{}|]*)(?:\|([^{}]*))?\}")
_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_NOTHING = msgspec.UNSET


def filled(template: Any, value: Any) -> Any:
    """Return the template with its gaps filled; it is one without ``mistakes``."""
    made = _filled(template, value, None, cache(_read))  # each text once: gaps of all its items go into the same one
    return None if made is _NOTHING else made


def _filled(template: Any, value: Any, item: str | None, read: Callable[[str], Any]) -> Any:
    """Fill a template; ``item``: what stands for ``*``; ``read`` reads JSON in a text."""
    if isinstance(template, dict):
        members = ((name, _filled(part, value, item, read)) for name, part in template.items())
        return {name: made for name, made in members if made is not _NOTHING}
    if isinstance(template, list):
        if (each := _items(template)) is None:
            parts = [_filled(part, value, item, read) for part in template]
        else:
            found = _found(value, each, read)
            count = len(found) if isinstance(found, list) else 0
            parts = [_filled(template[0], value, str(number), read) for number in range(count)]
        return [part for part in parts if part is not _NOTHING]
    if not isinstance(template, str) or (gap := _GAP.fullmatch(template)) is None:
        return template
    path, other = gap.groups()
    if not path:
        return None
    names = [item if name == "*" and item is not None else name for name in path.split(".")]
    found = _found(value, names, read)
    return _other(other) if other is not None and found in (_NOTHING, None, "") else found


def _found(value: Any, names: list[str], read: Callable[[str], Any]) -> Any:
    for name in names:
        if isinstance(value, str):
            value = read(value)
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _NOTHING
    return value


def _read(text: str) -> Any:
    try:
        return lenientjson.decode(text)
    except ValueError:
        return _NOTHING


def _other(text: str) -> Any:
    return int(text) if text.isdecimal() else text


def _items(template: list[Any]) -> list[str] | None:
    """Return where the array stands whose items the one of this array is for; None where it is for none."""
    paths = [path for path in _paths(template) if "*" in path]
    return paths[0][: paths[0].index("*")] if paths else None


def _paths(template: Any) -> Iterator[list[str]]:
    parts = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    for part in parts:
        yield from _paths(part)
    if isinstance(template, str) and (gap := _GAP.fullmatch(template)) is not None:
        yield gap[1].split(".")


def mistakes(template: Any, *, repeats: bool = False) -> Iterator[str]:
    """Yield what keeps a template from being filled; ``repeats``: it is an item that stands for several."""
    if isinstance(template, dict):
        for part in template.values():
            yield from mistakes(part, repeats=repeats)
    elif isinstance(template, list):
        arrays = {tuple(path[: path.index("*")]) for path in _paths(template) if "*" in path}
        if len(arrays) > 1 or (arrays and (len(template) > 1 or repeats)):
            yield "an array whose item stands for each of another's has that item alone, about one other array"
        else:
            for part in template:
                yield from mistakes(part, repeats=bool(arrays))
    elif isinstance(template, str) and "{" in template:
        gap = _GAP.fullmatch(template)
        if gap is None or (gap[1] and not _PATH.fullmatch(gap[1])) or gap[1].split(".").count("*") > repeats:
            yield f'{template!r} is no path between braces, such as "{{response.url}}"; * only within an array'
