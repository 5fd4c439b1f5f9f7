"""The upstreams: the TOML file's tables ``[upstreams.NAME]``, GATEWAY_UPSTREAM_… and the profiles, put together.

Owns which there are, which is the default one, and what of it decides each of their settings. Called by ``load``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.clients import callers, upstream_of
from gateway.config.profilefile import config_dir, read_profiles
from gateway.config.reading import Reader
from gateway.config.settings import UPSTREAM_KEYS, UPSTREAMS, ClientSettings, UpstreamSettings
from gateway.core.addresses import is_loopback_host


def read_upstreams(reader: Reader) -> dict[str, dict[str, Any]]:
    """Return what stands in each table, by name; without those that are mistaken."""
    found = {}
    for name, table in reader.tables(UPSTREAMS).items():
        before = len(reader.problems)
        section = f"[{UPSTREAMS}.{name}] in {reader.file}"
        reader.check_name(section, name)
        values = reader.read_table(section, table, UPSTREAM_KEYS)
        if len(reader.problems) == before:
            found[name] = values
    return found


def join_upstreams(
    reader: Reader, tables: dict[str, dict[str, Any]], values: Mapping[str, Any]
) -> tuple[UpstreamSettings, ...]:
    """Return the upstreams that can be had: those of ``tables``, and the default one.

    ``values`` are the settings by key, the clients among them; what is mistaken is not there.
    """
    own = values.get("profiles")
    profiles, problems = read_profiles([config_dir() / "upstreams"] + ([] if own is None else [Path(own)]))
    reader.problems.extend(problems)
    default = values.get("upstream")
    if default is not None and (default in tables or default not in reader.tables(UPSTREAMS)):
        others = {name: table for name, table in tables.items() if name != default}
        tables = {default: _with_own(reader, default, tables.get(default, {}), values), **others}
    found = []
    for name, table in tables.items():
        named = table.get("profile", name)
        if (profile := profiles.get(named)) is None:
            place = f"[{UPSTREAMS}.{name}]" if name in reader.tables(UPSTREAMS) else "GATEWAY_UPSTREAM"
            reader.problems.append(f"{place}: there is no profile {named}; there are: {', '.join(sorted(profiles))}")
            continue
        upstream = UpstreamSettings(
            name=name,
            profile=profile,
            url=table.get("url", profile.base_url),
            api_key=table.get("api_key"),
            rate=table.get("rate", profile.limits.query),
            create_rate=table.get("create_rate", profile.limits.create),
            proxy=table.get("proxy"),
            default=name == default,
        )
        # A default that nobody uses needs no key, where there are others: then there is none.
        if not upstream.default or not key_missing(upstream) or len(tables) == 1 or _is_used(name, values):
            found.append(upstream)
    return tuple(found)


def _with_own(reader: Reader, name: str, table: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default upstream's table with what GATEWAY_UPSTREAM_… says."""
    given = {
        key: value
        for key in ("url", "api_key", "rate", "proxy")
        if (value := values.get(f"upstream_{key}")) is not None
    }
    # Not one over the other: the key may be that of the upstream that was the default before.
    reader.problems.extend(
        f"[{UPSTREAMS}.{name}]: got both {key} and GATEWAY_UPSTREAM_{key.upper()}, "
        "which is about the default upstream; remove one of them"
        for key in given
        if key in table
    )
    return table | given


def _is_used(default: str, values: Mapping[str, Any]) -> bool:
    """Whether a client's callbacks go to the default upstream, or could for all that is known."""
    if not {"clients", "token"} <= values.keys():
        return True
    clients: Sequence[ClientSettings] = values["clients"]
    return default in {upstream_of(name, clients, default) for name in callers(values["token"], clients)}


def key_missing(upstream: UpstreamSettings) -> bool:
    """Whether the upstream needs a key and has none; one on this machine needs none."""
    return upstream.api_key is None and not is_loopback_host(urlsplit(upstream.url).hostname or "")
