"""The receivers: the TOML file's tables ``[[receivers]]``, and the files that they name.

Owns what a table may hold together, and that no two are about the same URLs; what its keys mean ``settings`` says. The
files are read here, once: what they held is a part of the settings, so that a reload notices that they have changed.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import httpx

from gateway.config.clients import read_headers
from gateway.config.reading import Reader, shown
from gateway.config.settings import RECEIVER_KEYS, RECEIVERS, ReceiverSettings
from gateway.core.errors import SecretError
from gateway.core.urls import begins_with, prefix_of, receiver_of
from gateway.signature import Signer, parse_secrets

_PAIR = "client_cert_file", "client_key_file"
_TLS_FILES = "ca_file", *_PAIR
_NO_TLS = "these receivers are reached by http, without TLS; write https in match, or remove it"
_CERTIFICATE = re.compile(r"^-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----", re.MULTILINE)
_KEY = re.compile(r"^-----BEGIN (?:[A-Z0-9]+ )?PRIVATE KEY-----", re.MULTILINE)
_LOCKED = re.compile(r"^-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)


def read_receivers(reader: Reader) -> tuple[ReceiverSettings, ...]:
    """Return the tables that are no mistake."""
    found: dict[str, ReceiverSettings] = {}
    for number, table in enumerate(reader.list_of_tables(RECEIVERS), 1):
        section = f"{RECEIVERS}[{number}] in {reader.file}"
        before = len(reader.problems)
        values = reader.read_table(section, table, RECEIVER_KEYS, others=("headers",))
        headers = read_headers(reader, section, table)
        if "match" not in table:
            reader.problems.append(f"{section}: match: missing; write the URLs' beginning, such as {_EXAMPLE}")
        files = _read_files(reader, section, values)
        if values.get("match", "").startswith("http:"):  # else somebody would rely on a certificate that nobody shows
            reader.problems += [f"{section}: {key}: {_NO_TLS}" for key in _TLS_FILES if values.get(key)]
        if (other := found.get(values.get("match", ""))) is not None:
            reader.problems.append(f"{section}: match: {other.place} is about the same URLs; make one table of the two")
        if len(reader.problems) == before:
            absent = dict.fromkeys((*RECEIVER_KEYS, "secret", "ca", "client_cert", "client_key"))
            of_table = {"headers": headers, "place": section}
            receiver = ReceiverSettings(**{**absent, **values, **files, **of_table})
            found[receiver.match] = receiver
    return tuple(found.values())


_EXAMPLE = "https://hooks.example.com/orders"


def _read_files(reader: Reader, section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in the files that a table names, by what it is; without what is mistaken."""
    found: dict[str, Any] = {}
    for key, path in values.items():
        if not key.endswith("_file") or path is None:
            continue
        place = f"{section}: {key}"
        if key == "secret_file":
            text = reader.read_secret(place, path)
            problem = None if text is None else _secret_problem(text)
            value: Any = None if text is None else tuple(text.split())
        else:
            value = reader.read_named(place, path, "a file in PEM format")
            problem = None if value is None else pem_problem(key, value)
        if problem is not None:
            reader.problems.append(f"{place}: got {shown(path)}; {problem}")
        elif value is not None:
            found[key.removesuffix("_file")] = value
    if len(alone := [key for key in _PAIR if values.get(key)]) == 1:
        missing = next(key for key in _PAIR if key not in alone)
        reader.problems.append(f"{section}: {missing}: missing; {_PAIR[0]} and {_PAIR[1]} go together")
    return found


def _secret_problem(text: str) -> str | None:
    try:
        Signer(parse_secrets(text))
    except SecretError as error:
        return error.message
    return None


def pem_problem(key: str, text: str) -> str | None:
    """Return what is wrong with a file at the first look; that its parts fit is for who makes connections to say."""
    if key != "client_key_file":
        return None if _CERTIFICATE.search(text) else "there is no certificate in it: no BEGIN CERTIFICATE"
    if _LOCKED.search(text):
        return "the key is encrypted, and nobody is there to be asked for its passphrase; write it without one"
    return None if _KEY.search(text) else "there is no private key in it: no BEGIN PRIVATE KEY"


# Of each URL that is not known yet all tables are looked at, and reading theirs anew is the dearest part of that.
_match = lru_cache(maxsize=16_384)(prefix_of)


def table_of(tables: Sequence[ReceiverSettings], url: str) -> ReceiverSettings | None:
    """Return the table that a URL's webhooks go by: the longest that it begins with."""
    try:
        receiver, segments = prefix_of(url)
    except httpx.InvalidURL:
        return None  # nor is it sent to
    found = [
        one
        for one in tables
        for origin, prefix in (_match(one.match),)
        if origin == receiver and begins_with(segments, prefix)
    ]
    # Each is the beginning of all longer ones. Not by segments: of a host alone that is one, if an empty one.
    return max(found, key=lambda one: len(one.match), default=None)


def name_of(tables: Sequence[ReceiverSettings], url: str) -> str:
    """Return what a URL's receiver is called: the match of its table, else its host. Raises httpx.InvalidURL."""
    table = table_of(tables, url)
    return receiver_of(url) if table is None else table.match


def told(receiver: ReceiverSettings) -> list[str]:
    """Return what a table says, as it may be shown: no secret, no header's value, no proxy's password."""
    found = {
        "headers": ", ".join(sorted(receiver.headers)),
        "secret": receiver.secret and "***",
        "ca_file": receiver.ca_file,
        "client_cert_file": receiver.client_cert_file,
        "client_key_file": receiver.client_key_file,
        "proxy": receiver.proxy,
        "concurrency": receiver.concurrency,
        "rate": receiver.rate and ",".join(f"{window.limit}/{window.window_s:g}" for window in receiver.rate),
        "timeout_s": receiver.timeout_s and f"{receiver.timeout_s:g}",
    }
    return [f"{name} {value}" for name, value in found.items() if value]
