"""The clients: the TOML file's tables ``[clients.NAME]``, and who may call by what they say. Called by ``load``.

Owns what a table may hold together, and that a token is one client's alone; what its keys mean ``settings`` says.
"""

from collections.abc import Collection, Sequence
from typing import Any

from gateway.config.parsers import header_problem
from gateway.config.reading import HIDDEN, Reader, shown
from gateway.config.settings import CLIENT_KEYS, CLIENTS, DEFAULT_CLIENT, ClientSettings
from gateway.config.tokens import token_digest

_OPERATOR = "GATEWAY_OPERATOR_TOKEN"


def read_clients(reader: Reader, upstreams: Sequence[str | None]) -> list[ClientSettings]:
    """Read the tables; ``upstreams`` are the names that one may name, None among them where one is mistaken."""
    clients = []
    for name, table in reader.tables(CLIENTS).items():
        section = f"[{CLIENTS}.{name}] in {reader.file}"
        before = len(reader.problems)
        reader.check_name(section, name)
        values = reader.read_table(section, table, CLIENT_KEYS, others=("headers", "headers_file"))
        headers = read_headers(reader, section, table)
        hashes = values.pop("token_hash", ()) + values.pop("token_hashes", ())
        if name == DEFAULT_CLIENT:
            if "webhook_secret" in table or "webhook_secret_file" in table:
                reader.problems.append(f"{section}: webhook_secret: the default client's is GATEWAY_WEBHOOK_SECRET")
        elif not any(key.startswith("token_hash") for key in table):
            reader.problems.append(
                f"{section}: token_hash: missing; `gateway make-secret --token` prints one for a new token"
            )
        if None not in upstreams and values.get("upstream", upstreams[0]) not in upstreams:
            reader.problems.append(
                f"{section}: upstream: got {shown(values['upstream'])}; write one of: {', '.join(map(str, upstreams))}"
            )
        if len(reader.problems) == before:
            absent = dict.fromkeys(("webhook_secret", "upstream", "rate"))
            clients.append(
                ClientSettings(**{"name": name, "token_hashes": hashes, "headers": headers} | absent | values)
            )
    return clients


def read_headers(reader: Reader, section: str, table: dict[str, Any]) -> dict[str, str]:
    """Return a table's extra headers, from the table ``headers`` or the lines of the file ``headers_file``."""
    given = table.get("headers", {})
    pairs: list[tuple[str, str]] = []
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        reader.problems.append(f'{section}: headers: got {HIDDEN}; write a table of strings: {{ Authorization = "…" }}')
    elif "headers_file" in table and given:
        reader.problems.append(f"{section}: got both headers and headers_file; remove one of them")
    elif "headers_file" in table:
        lines = (reader.read_secret(f"{section}: headers_file", str(table["headers_file"])) or "").splitlines()
        if not all(":" in line for line in lines):  # such a line may be a secret: not shown
            reader.problems.append(
                f"{section}: headers_file: write a line for each header, such as Authorization: Bearer …"
            )
            lines = []
        pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    else:
        pairs = list(given.items())
    headers: dict[str, str] = {}
    for name, value in pairs:
        if (found := header_problem(name, value)) is not None:
            reader.problems.append(f"{section}: headers: {found}")
        elif name.lower() in headers:
            reader.problems.append(f"{section}: headers: {name}: given twice; remove one of them")
        headers[name.lower()] = value
    return headers


def check_tokens(
    reader: Reader, token: str | None, operator_token: str | None, clients: Sequence[ClientSettings]
) -> None:
    """Check that no token is two clients', or the operator's as well: one of them would see the other's callbacks."""
    owners = {} if token is None else {token_digest(token): "GATEWAY_TOKEN"}
    if operator_token is not None and owners.setdefault(token_digest(operator_token), _OPERATOR) != _OPERATOR:
        reader.problems.append(f"{_OPERATOR}: it is also GATEWAY_TOKEN; give the operator a token of its own")
    for client in clients:
        table = f"[{CLIENTS}.{client.name}]"
        owned = (owners.setdefault(digest, table) for digest in client.token_hashes)
        reader.problems.extend(
            f"{table}: its token is also that of {owner}; give each its own" for owner in owned if owner != table
        )


def open_to_all(token: str | None, of_clients: Collection[object]) -> bool:
    """Whether anyone may call, without a token: there is no GATEWAY_TOKEN, and none of ``of_clients``, their tokens."""
    return token is None and not of_clients


def callers(token: str | None, clients: Sequence[ClientSettings]) -> list[str]:
    """Return the names of the clients that may call."""
    with_tokens = [client.name for client in clients if client.token_hashes]
    return [DEFAULT_CLIENT, *with_tokens] if token is not None or open_to_all(token, with_tokens) else with_tokens


def upstream_of(client: str, clients: Sequence[ClientSettings], default: str) -> str:
    """Return the upstream of what the client registers without naming one."""
    return next((one.upstream for one in clients if one.name == client and one.upstream is not None), default)
