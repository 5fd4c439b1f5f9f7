"""The tables of the TOML file, ``[upstreams.NAME]`` and ``[clients.NAME]``: reading them, each mistake by its table.

Owns what a table may hold together; what its keys mean stands in ``settings``. Called by ``config``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gateway.config.extraheaders import header_problem
from gateway.config.settings import (
    CLIENT_KEYS,
    DEFAULT_CLIENT,
    UPSTREAM_KEYS,
    ClientSettings,
    TableKey,
    UpstreamSettings,
)
from gateway.config.sources import HIDDEN, TomlFile, as_text, read_secret, shown, suggest
from gateway.config.tokens import token_digest
from gateway.core.errors import GatewayError

__all__ = [
    "CLIENTS",
    "SECRET_KEYS",
    "UPSTREAMS",
    "check_groups",
    "check_tokens",
    "read_clients",
    "read_upstreams",
    "tables",
]

UPSTREAMS, CLIENTS = "upstreams", "clients"
SECRET_KEYS = ("api_key", "webhook_secret", "headers")
"""Keys of a table that hold what nobody else may know; KEY_file names a file of it. Of tokens there are only hashes."""
_OPERATOR = "GATEWAY_OPERATOR_TOKEN"


def tables(file: TomlFile, group: str) -> dict[str, dict[str, Any]]:
    """Return the tables ``[group.NAME]``; none where they are no tables, which ``check_groups`` reports."""
    found = (file.keys or {}).get(group, {})
    usable = isinstance(found, dict) and all(isinstance(table, dict) for table in found.values())
    return found if usable else {}


def check_groups(file: TomlFile, problems: list[str]) -> None:
    for group, example in ((UPSTREAMS, "runway"), (CLIENTS, "shop")):
        if (file.keys or {}).get(group, {}) != {} and not tables(file, group):
            problems.append(f"{group} in {file.name}: write a table for each {group[:-1]}, such as [{group}.{example}]")


def _read_table(
    section: str,
    table: dict[str, Any],
    keys: Mapping[str, TableKey],
    problems: list[str],
    others: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the values of one table's keys, those of secrets also from the files that KEY_file names.

    ``others`` are keys that the caller reads.
    """
    values: dict[str, Any] = {}
    files = {f"{name}_file": name for name, key in keys.items() if key.secret}
    for given, raw in table.items():
        name = files.get(given, given)
        if given in others:
            continue
        if name not in keys:
            advice = suggest(given, {*keys, *files, *others}, "remove it")
            problems.append(f"{section}: {given}: no such setting; {advice}")
            continue
        if given in files and name in table:
            problems.append(f"{section}: got both {name} and {given}; remove one of them")
            continue
        key = keys[name]
        try:
            if given in files:
                read = read_secret(f"{section}: {given}", as_text(raw, ""), problems)
                if read is None:
                    continue
                raw = read[1]
            values[name] = key.parse(as_text(raw, key.separator).strip())
        except ValueError as error:
            problems.append(f"{section}: {given}: got {HIDDEN if key.secret else shown(raw)}; {error}")
    return values


def read_upstreams(file: TomlFile, problems: list[str]) -> Iterator[UpstreamSettings]:
    """Read the tables ``[upstreams.NAME]``."""
    for name, table in tables(file, UPSTREAMS).items():
        section = f"[{UPSTREAMS}.{name}] in {file.name}"
        before = len(problems)
        _check_name(section, name, problems)
        values = _read_table(section, table, UPSTREAM_KEYS, problems)
        if len(problems) == before:
            absent = dict.fromkeys(("url", "api_key", "rate", "create_rate"))
            yield UpstreamSettings(**{"name": name, "profile": name, **absent, **values})


def read_clients(
    file: TomlFile, default_upstream: str | None, check_secret: Callable[[Any], object] | None, problems: list[str]
) -> Iterator[ClientSettings]:
    """Read the tables ``[clients.NAME]``; ``default_upstream``: None where that is mistaken."""
    upstreams = list(dict.fromkeys((default_upstream, *tables(file, UPSTREAMS))))
    for name, table in tables(file, CLIENTS).items():
        section = f"[{CLIENTS}.{name}] in {file.name}"
        before = len(problems)
        _check_name(section, name, problems)
        values = _read_table(section, table, CLIENT_KEYS, problems, others=("headers", "headers_file"))
        headers = _read_headers(section, table, problems)
        hashes = values.pop("token_hash", ()) + values.pop("token_hashes", ())
        if name == DEFAULT_CLIENT:
            if "webhook_secret" in values:
                problems.append(f"{section}: webhook_secret: the default client's is GATEWAY_WEBHOOK_SECRET")
        elif not any(key.startswith("token_hash") for key in table):
            problems.append(f"{section}: token_hash: missing; `gateway make-secret --token` prints one for a new token")
        if default_upstream is not None and values.get("upstream", default_upstream) not in upstreams:
            problems.append(
                f"{section}: upstream: got {shown(values['upstream'])}; write one of: {', '.join(map(str, upstreams))}"
            )
        if check_secret is not None and "webhook_secret" in values:
            try:
                check_secret(values["webhook_secret"])
            except (ValueError, GatewayError) as error:
                problems.append(f"{section}: webhook_secret: got {HIDDEN}; {error}")
        if len(problems) == before:
            absent = dict.fromkeys(("webhook_secret", "upstream", "rate"))
            yield ClientSettings(**{"name": name, "token_hashes": hashes, "headers": headers, **absent, **values})


def _read_headers(section: str, table: dict[str, Any], problems: list[str]) -> dict[str, str]:
    """Return a client's extra headers, from the table ``headers`` or the lines of the file ``headers_file``."""
    given = table.get("headers", {})
    pairs: list[tuple[str, str]] = []
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        problems.append(f'{section}: headers: got {HIDDEN}; write a table of strings: {{ Authorization = "…" }}')
    elif "headers_file" in table and given:
        problems.append(f"{section}: got both headers and headers_file; remove one of them")
    elif "headers_file" in table:
        read = read_secret(f"{section}: headers_file", str(table["headers_file"]), problems)
        lines = [] if read is None else read[1].splitlines()
        if not all(":" in line for line in lines):  # such a line may be a secret: not shown
            problems.append(f"{section}: headers_file: write a line for each header, such as Authorization: Bearer …")
            lines = []
        pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    else:
        pairs = list(given.items())
    headers: dict[str, str] = {}
    for name, value in pairs:
        if (found := header_problem(name, value)) is not None:
            problems.append(f"{section}: headers: {found}")
        elif name.lower() in headers:
            problems.append(f"{section}: headers: {name}: given twice; remove one of them")
        headers[name.lower()] = value
    return headers


def _check_name(section: str, name: str, problems: list[str]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        problems.append(f"{section}: name it with at most 64 small letters, digits and hyphens")


def check_tokens(
    token: str | None, operator_token: str | None, clients: Sequence[ClientSettings], problems: list[str]
) -> None:
    """Check that no token is two clients', or the operator's as well: one of them would see the other's callbacks."""
    owners = {} if token is None else {token_digest(token): "GATEWAY_TOKEN"}
    if operator_token is not None and owners.setdefault(token_digest(operator_token), _OPERATOR) != _OPERATOR:
        problems.append(f"{_OPERATOR}: it is also GATEWAY_TOKEN; give the operator a token of its own")
    for client in clients:
        for digest in client.token_hashes:
            owner = owners.setdefault(digest, f"[{CLIENTS}.{client.name}]")
            if owner != f"[{CLIENTS}.{client.name}]":
                problems.append(f"[{CLIENTS}.{client.name}]: its token is also that of {owner}; give each its own")
