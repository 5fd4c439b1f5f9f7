"""How settings are read, wherever they stand: every value, file of a secret and table goes through one ``Reader``.

Owns the report of mistakes and its wording, and knows no setting by name. ``load`` makes it, and hands it on.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.config.settings import Setting
from gateway.core.errors import GatewayError
from gateway.core.textfile import read_text

HIDDEN = "a value that is not shown here"
_MAX_SHOWN = 80


class Reader:
    """One reading: the TOML file, where there is one, and every mistake so far."""

    def __init__(self, validators: Mapping[str, Callable[[Any], object]]) -> None:
        """``validators``: by a setting's key, a further check of its value that raises ValueError or GatewayError."""
        self.problems: list[str] = []
        """One line for each mistake."""
        self.file = ""
        """The TOML file's name."""
        self.keys: dict[str, Any] | None = {}
        """What the file holds; None where it could not be read: then nothing is known of what it sets."""
        self._validators = validators

    def read_file(self, place: str, path: Path) -> None:
        """Read the TOML file that ``place`` names."""
        self.file, self.keys = str(path), None
        text = self._read(path, f"{place}: got {self.file!r}", "a readable TOML file")
        if text is None:
            return
        import tomllib  # late: a command that asks a running gateway needs none

        try:
            self.keys = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{self.file}: not valid TOML; {error}")

    def read_secret(self, place: str, path: str) -> str | None:
        """Return what stands in the file of a secret that ``place`` names, None where that is a mistake."""
        # What is no absolute path may be the secret itself, put into the wrong variable.
        given = f"{place}: got {repr(path) if path.startswith('/') else 'a path that is not shown here'}"
        text = self._read(Path(path), given, "a file that holds the secret")
        if text is not None and not text.strip():
            self.problems.append(f"{given}; the file is empty, write the secret into it")
        return (text or "").strip() or None

    def read_named(self, place: str, path: str, wanted: str) -> str | None:
        """Return what stands in a file whose name is no secret, None where it cannot be read, which is reported."""
        return self._read(Path(path), f"{place}: got {path!r}", wanted)

    def _read(self, path: Path, given: str, wanted: str) -> str | None:
        try:
            return read_text(path)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
            self.problems.append(f"{given}; {reason}, write the path of {wanted}")
            return None

    def read_value(self, setting: Setting, place: str, raw: object, values: dict[str, Any]) -> None:
        """Put what is given for a setting into ``values``, by its key, where it is no mistake."""
        try:
            text = _as_text(raw, setting.separator).strip()
            value = setting.absent if setting.default == "" and not text else setting.parse(text)
            if value is not None and setting.key in self._validators:
                self._validators[setting.key](value)
        except (ValueError, GatewayError) as error:
            self.problems.append(f"{place}: got {HIDDEN if setting.secret else shown(raw)}; {error}")
        else:
            values[setting.key] = value

    def tables(self, group: str) -> dict[str, dict[str, Any]]:
        """Return the file's tables ``[group.NAME]``; none where they are no tables, which ``check_group`` reports."""
        found = (self.keys or {}).get(group, {})
        usable = isinstance(found, dict) and all(isinstance(table, dict) for table in found.values())
        return found if usable else {}

    def check_group(self, group: str, example: str) -> None:
        if (self.keys or {}).get(group, {}) != {} and not self.tables(group):
            self.problems.append(
                f"{group} in {self.file}: write a table for each {group[:-1]}, such as [{group}.{example}]"
            )

    def list_of_tables(self, group: str) -> list[dict[str, Any]]:
        """Return the file's tables ``[[group]]``; none, and a mistake reported, where they are no such tables."""
        found = (self.keys or {}).get(group, [])
        if isinstance(found, list) and all(isinstance(table, dict) for table in found):
            return found
        self.problems.append(f"{group} in {self.file}: write a table [[{group}]] for each")
        return []

    def check_name(self, section: str, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
            self.problems.append(f"{section}: name it with at most 64 small letters, digits and hyphens")

    def read_table(
        self, section: str, table: dict[str, Any], keys: Mapping[str, Setting], others: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the values of one table's keys, those of secrets also from the files that KEY_file names.

        ``section`` is the table as the report names it, ``others`` are keys that the caller reads.
        """
        values: dict[str, Any] = {}
        files = {f"{key}_file": key for key, setting in keys.items() if setting.secret}
        for given, raw in table.items():
            key = files.get(given, given)
            if given in others:
                continue
            if key not in keys:
                advice = suggest(given, {*keys, *files, *others}, "remove it")
                self.problems.append(f"{section}: {given}: no such setting; {advice}")
            elif given in files and key in table:
                self.problems.append(f"{section}: got both {key} and {given}; remove one of them")
            elif given not in files:
                self.read_value(keys[key], f"{section}: {given}", raw, values)
            elif (text := self.read_secret(f"{section}: {given}", str(raw))) is not None:
                self.read_value(keys[key], f"{section}: {given}", text, values)
        return values


def suggest(name: str, known: set[str], otherwise: str) -> str:
    """Return the likely right name as advice."""
    import difflib  # late: only a mistake needs it

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def shown(raw: object) -> str:
    """Quote what was given: no user and password, no query string, not endlessly."""
    # Where it is mistaken, nobody can tell what of it is the password.
    raw = re.sub(r"^(postgres[a-z+]*://).*", r"\1…", str(raw), flags=re.DOTALL)
    text = re.sub(r"^([a-z0-9+.-]+://)?.*@", r"\1***@", raw, flags=re.DOTALL)
    text = re.sub(r"\?.+", "?…", text, flags=re.DOTALL)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def _as_text(raw: object, separator: str) -> str:
    """Bring a TOML value into the form that it would have in the environment."""
    if isinstance(raw, list) and separator:
        return separator.join(_as_text(item, "") for item in raw)
    if isinstance(raw, str):
        return raw
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw)
    raise ValueError(f"write a string or a number{', or an array of them' if separator else ''}")
