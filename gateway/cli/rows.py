"""What ``gateway import`` reads: a file of registrations, each checked as the API will check it.

Owns the two forms of the file, CSV with a header and JSON lines, and what is said of a line that is neither. Opens no
file and asks nobody. Called by ``gateway.cli.importing``.
"""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import click
import msgspec

from gateway.api.schema import MAX_BODY, CallbackRequest, decode, encode_metadata
from gateway.core.errors import RequestError, TooLarge

_MEMBERS = ("taskId", "callbackUrl", "metadata", "timeoutSeconds", "upstream", "model", "format")
_OF_METADATA = "metadata."
_DELIMITERS = ",;\t"
_one = msgspec.json.Decoder(CallbackRequest)


class Row(NamedTuple):
    """A registration that can be sent."""

    line: int
    """Of the file, from 1 on: where it begins."""
    content: bytes
    """The registration as JSON."""


class Refused(NamedTuple):
    """A line that was not registered."""

    line: int
    code: str
    """One of the API's codes."""
    message: str
    """What is wrong, and what to do."""


def read(data: bytes, callback_url: str | None) -> Iterator[Row | Refused]:
    """Yield every registration of a file, in its order; ``callback_url`` is that of those without one.

    Raises click's UsageError where the file as a whole cannot be read.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise click.UsageError(f"FILE is not UTF-8: byte {exc.start}, in line {line}; save it as UTF-8.") from exc
    rows = _json_lines(text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text)
    for line, members in rows:
        yield members if isinstance(members, Refused) else _checked(line, members, callback_url)


def _checked(line: int, members: dict[str, Any] | bytes, callback_url: str | None) -> Row | Refused:
    """Look at a registration as the API will, so that both give the same reasons."""
    if callback_url is not None:
        told: Any = members
        if isinstance(members, bytes):
            with suppress(ValueError, RecursionError):  # which is told below
                told = json.loads(members)
        if isinstance(told, dict) and told.get("callbackUrl") is None:
            members = {**told, "callbackUrl": callback_url}
    try:
        content = members if isinstance(members, bytes) else json.dumps(members, ensure_ascii=False).encode()
        if len(content) > MAX_BODY:
            raise TooLarge(f"A registration may have at most {MAX_BODY} bytes.")
        encode_metadata(decode(content, _one).metadata)
    except RequestError as error:
        return Refused(line, error.code, error.message)
    except (UnicodeEncodeError, RecursionError):
        return Refused(line, "invalid_json", "This is no JSON that a request can carry: half an emoji, or too deep.")
    return Row(line, content)


def _json_lines(text: str) -> Iterator[tuple[int, bytes]]:
    if text.lstrip().startswith("["):
        raise click.UsageError("FILE is one JSON array; write one object a line (jq -c '.[]' does).")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip().encode()


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    heading = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = _columns(reader)
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield line, Refused(line, "invalid_request", f"This is no line of CSV: {exc}.")
        else:
            if any(cell.strip() for cell in cells):
                yield line, _members(line, names, cells)
        line = reader.line_num + 1


def _columns(reader: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(reader)]
    except StopIteration:
        raise click.UsageError("FILE is empty.") from None
    except csv.Error as exc:
        raise click.UsageError(f"FILE's first line is no header of CSV: {exc}.") from exc
    unknown = [name for name in names if name not in _MEMBERS and not name.startswith(_OF_METADATA)]
    if unknown or "taskId" not in names:
        wrong = f"has the column {unknown[0]!r}" if unknown else "has no column 'taskId'"
        raise click.UsageError(
            f"FILE's first line {wrong}; its columns are {', '.join(_MEMBERS)} and metadata.NAME, "
            "and a file of JSON lines begins with {."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"FILE's first line has the column {twice[0]!r} more than once.")
    return names


def _members(line: int, names: list[str], cells: list[str]) -> dict[str, Any] | Refused:
    """Return the members that a line's cells stand for; an empty cell is as if left out."""
    if len(cells) > len(names):
        message = f"The line has {len(cells)} cells, the header {len(names)}: put a cell with a comma into quotes."
        return Refused(line, "invalid_request", message)
    members: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, cell in zip(names, map(str.strip, cells), strict=False):
        if not cell:
            continue
        if name == "metadata":
            try:
                told = json.loads(cell)
            except (ValueError, RecursionError) as exc:
                return Refused(line, "invalid_json", f"metadata: not JSON ({exc}); write a JSON object.")
            if not isinstance(told, dict):
                return Refused(line, "invalid_request", "metadata: write a JSON object.")
            metadata |= told
        elif name.startswith(_OF_METADATA):
            metadata[name.removeprefix(_OF_METADATA)] = cell
        elif name == "timeoutSeconds" and cell.isascii() and cell.isdecimal() and len(cell) < 10:
            members[name] = int(cell)
        else:
            members[name] = cell
    return {**members, "metadata": metadata} if metadata else members
