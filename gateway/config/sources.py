"""Where settings are read from: the TOML file and the files of secrets; and how what stands there is shown in a report.

Owns the reading and the wording, and knows no setting. Called by ``config`` and ``configtables``.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.textfile import read_text

__all__ = ["HIDDEN", "TomlFile", "as_text", "read_file", "read_secret", "shown", "suggest"]

HIDDEN = "a value that is not shown here"
_MAX_SHOWN = 80


class TomlFile(msgspec.Struct, frozen=True):
    """The TOML file; ``keys`` is None where it could not be read: then nothing is known of what it sets."""

    name: str
    keys: dict[str, Any] | None


def read_file(place: str, path: Path, problems: list[str]) -> TomlFile:
    """Read the TOML file that ``place`` names."""
    name = str(path)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        problems.append(f"{place}: got {name!r}; {_reason(error)}, write the path of a readable TOML file")
        return TomlFile(name, None)
    # Imported late: most starts have no file, and idle memory is counted.
    import tomllib

    try:
        return TomlFile(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{name}: not valid TOML; {error}")
        return TomlFile(name, None)


def read_secret(variable: str, path: str, problems: list[str]) -> tuple[str, str] | None:
    """Return what stands in a secret's file, after the name of what names it."""
    # What is no absolute path may be the secret itself, put into the wrong variable.
    told = repr(path) if path.startswith("/") else "a path that is not shown here"
    try:
        text = read_text(Path(path)).strip()
    except (OSError, ValueError) as error:
        problems.append(f"{variable}: got {told}; {_reason(error)}, write the path of a file that holds the secret")
        return None
    if not text:
        problems.append(f"{variable}: got {told}; the file is empty, write the secret into it")
        return None
    return variable, text


def suggest(name: str, known: set[str], otherwise: str) -> str:
    """Return the likely right name as advice."""
    import difflib  # late: only a mistake needs it

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def as_text(raw: object, separator: str) -> str:
    """Bring a TOML value into the form that it would have in the environment."""
    if isinstance(raw, list) and separator:
        return separator.join(as_text(item, "") for item in raw)
    if isinstance(raw, str):
        return raw
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw)
    raise ValueError(f"write a string or a number{', or an array of them' if separator else ''}")


def shown(raw: object) -> str:
    """Quote what was given: no user and password, no query string, not endlessly."""
    text = re.sub(r"^([a-z0-9+.-]+://)?.*@", r"\1***@", str(raw), flags=re.DOTALL)
    text = re.sub(r"\?.+", "?…", text, flags=re.DOTALL)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
