"""Tables [clients.NAME] of the TOML file: what they may hold; every mistake in the one report, no secret shown."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.config.settings import ClientSettings
from gateway.config.tokens import hash_line, token_digest
from gateway.core.errors import ConfigError, SecretError
from gateway.core.ratelimit import RateWindow

HASH = hash_line("canary-token")
OTHER = hash_line("another-token")


def clients(path: Path, **validators: Any) -> dict[str, ClientSettings]:
    return {client.name: client for client in load({}, path, validators).clients}


def problems(environ: dict[str, str], path: Path, **validators: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(environ, path, validators)
    assert "canary" not in str(caught.value)
    return caught.value.problems


def test_every_key(toml: Any) -> None:
    """A table holds a client's tokens, secrets, default upstream, extra headers and rate; its repr shows no secret."""
    path = toml(f"""
        [upstreams.runway]
        [clients.shop]
        token_hash = "{HASH}"
        webhook_secret = "whsec_canary-a whsec_canary-b"
        upstream = "runway"
        rate = ["20/1", "600/60"]
        [clients.shop.headers]
        Authorization = "Bearer canary"
        X-Team = "a b"
    """)
    settings = load({}, path)
    assert settings.clients == (
        ClientSettings(
            name="shop",
            token_hashes=(token_digest("canary-token"),),
            webhook_secret=("whsec_canary-a", "whsec_canary-b"),
            upstream="runway",
            headers={"authorization": "Bearer canary", "x-team": "a b"},
            rate=(RateWindow(20, 1.0), RateWindow(600, 60.0)),
        ),
    )
    for shown in (repr(settings), repr(settings.clients)):
        assert "canary" not in shown
        assert HASH.removeprefix("sha256:") not in shown


def test_a_token_hash_is_enough(toml: Any) -> None:
    """Everything else has a default."""
    shop = clients(toml(f'[clients.shop]\ntoken_hash = "{HASH}"'))["shop"]
    assert (shop.webhook_secret, shop.upstream, shop.headers, shop.rate) == (None, None, {}, None)


def test_several_tokens(toml: Any) -> None:
    """token_hashes takes an array, so that a client changes its token without a gap; token_hash may stand beside it."""
    found = clients(toml(f'[clients.shop]\ntoken_hashes = ["{HASH}"]\ntoken_hash = "{OTHER}"'))["shop"]
    assert set(found.token_hashes) == {token_digest("canary-token"), token_digest("another-token")}


def test_secrets_in_files_of_their_own(toml: Any, tmp_path: Path) -> None:
    """webhook_secret_file, token_hash_file and headers_file name files; one header stands on each line of the last."""
    for name, text in (("secret", "whsec_a\n"), ("hash", HASH), ("headers", "Authorization: Bearer x:y\nX-A:  b c \n")):
        (tmp_path / name).write_text(text)
    shop = clients(
        toml(f"""
        [clients.shop]
        token_hash_file = "{tmp_path / "hash"}"
        webhook_secret_file = "{tmp_path / "secret"}"
        headers_file = "{tmp_path / "headers"}"
    """)
    )["shop"]
    assert shop.token_hashes == (token_digest("canary-token"),)
    assert shop.webhook_secret == ("whsec_a",)
    assert shop.headers == {"authorization": "Bearer x:y", "x-a": "b c"}


def test_the_default_client_may_have_a_table(toml: Any) -> None:
    """[clients.default] needs no token of its own, and its secret stays where it was."""
    path = toml('[clients.default]\nrate = "5/1"\nheaders = { X-A = "b" }')
    assert clients(path)["default"].token_hashes == ()
    (line,) = problems({}, toml('[clients.default]\nwebhook_secret = "whsec_canary"'))
    assert "GATEWAY_WEBHOOK_SECRET" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clients = 1", "write a table for each client"),
        ("clients = 0", "write a table for each client"),
        ("[clients]\nshop = 1", "write a table for each client"),
        ("[clients.shop]", "[clients.shop] in"),
        ("[clients.shop]\nrate = '1/1'", "token_hash: missing; `gateway make-secret --token`"),
        ("[clients.Shop]\nHASH", "small letters"),
        (f"[clients.{'s' * 65}]\nHASH", "small letters"),
        ("[clients.shop]\nHASH\ntoken_hsh = 1", "token_hsh: no such setting; did you mean token_hash?"),
        ("[clients.shop]\nHASH\nheader = {}", "header: no such setting; did you mean headers?"),
        (
            "[clients.shop]\ntoken_hash = 'canary-token'",
            "token_hash: got a value that is not shown here; write sha256:",
        ),
        ("[clients.shop]\ntoken_hashes = []", "token_hashes: got a value that is not shown here; write sha256:"),
        ("[clients.shop]\ntoken_hash = 1.5", "write sha256:"),
        ("[clients.shop]\nHASH\nupstream = 'runwy'", "upstream: got 'runwy'; write one of: aigptimage, runway"),
        ("[clients.shop]\nHASH\nrate = 'fast'", "requests/seconds windows"),
        ("[clients.shop]\nHASH\nwebhook_secret = ['canary', 1]\nwebhook_secret_file = '/b'", "both webhook_secret and"),
        ("[clients.shop]\nHASH\nwebhook_secret_file = '/nowhere/secret'", "webhook_secret_file: got '/nowhere/secret'"),
        ("[clients.shop]\nHASH\nwebhook_secret = 'canary'", "webhook_secret: got a value that is not shown here; bad"),
        ("[clients.shop]\nHASH\nheaders = 'canary: x'", "headers: got a value that is not shown here; write a table"),
        ("[clients.shop]\nHASH\nheaders = { A = ['canary'] }", "write a table of strings"),
        ("[clients.shop]\nHASH\nheaders = { A = 'b' }\nheaders_file = '/b'", "both headers and headers_file"),
        ("[clients.shop]\nHASH\nheaders_file = 'canary'", "headers_file: got a path that is not shown here"),
        ("[clients.shop]\nHASH\nheaders_file = ['canary']", "headers_file: got a path that is not shown here"),
        ("[clients.shop]\nHASH\nheaders = { A = 'canary', a = 'canary' }", "a: given twice"),
        (f"[clients.shop]\nHASH\n[clients.inn]\ntoken_hash = '{HASH}'", "its token is also that of [clients.shop]"),
    ],
)
def test_mistakes(toml: Any, text: str, expected: str) -> None:
    """Each is named with its table and key, and says what to write; no secret is shown, not even in the wrong place."""

    def check(secrets: tuple[str, ...]) -> None:
        raise SecretError("bad")

    text = text.replace("HASH", f"token_hash = '{HASH}'")
    found = problems({}, toml(f"[upstreams.runway]\n{text}" if "clients =" not in text else text), webhook_secret=check)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    "name",
    [
        *("webhook-id", "Webhook-Signature", "webhook-anything", "content-type", "Content-Length", "content-encoding"),
        *("Host", "Connection", "keep-alive", "Proxy-Authorization", "TE", "Trailer", "transfer-encoding", "Upgrade"),
        *("user-agent", "Accept", "accept-encoding", "expect"),
    ],
)
def test_headers_that_are_not_the_clients(toml: Any, name: str) -> None:
    """What signs, frames or routes the webhook, or belongs to one connection, cannot be set."""
    (line,) = problems({}, toml(f"[clients.shop]\ntoken_hash = '{HASH}'\nheaders = {{ {name} = 'canary' }}"))
    assert f"{name}: the gateway sets or forbids this header itself" in line
    assert line.startswith("[clients.shop] in ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A", "canary\\nX-Injected: 1"),
        ("A", "canary\\r"),
        ("A", ""),
        ("A", " canary"),
        ("A", "canary\\u0000"),
        ("A", "canäry canary"),
        ("A", "c" * 4097),
        ("canary\\n", "x"),
        ("canary canary", "x"),
        ("canary:", "x"),
        ("", "x"),
        ("ä", "x"),
    ],
)
def test_headers_that_would_break_a_request(toml: Any, name: str, value: str) -> None:
    """Line breaks, control characters and what is not ASCII are refused in names and values."""
    problems({}, toml(f'[clients.shop]\ntoken_hash = \'{HASH}\'\nheaders = {{ "{name}" = "{value}" }}'))


def test_a_line_without_a_name_in_the_file_of_headers(toml: Any, tmp_path: Path) -> None:
    """It may be the secret alone, so it is not shown."""
    (tmp_path / "headers").write_text("canary\n")
    found = problems({}, toml(f"[clients.shop]\ntoken_hash = '{HASH}'\nheaders_file = '{tmp_path / 'headers'}'"))
    assert "write a line for each header" in found[0]


def test_all_clients_mistakes_are_in_one_report(toml: Any) -> None:
    """Those of several tables, of other settings and of the environment stand together."""
    path = toml(f"""
        poll_min_s = "soon"
        [upstreams.runway]
        rate = "fast"
        [clients.shop]
        token_hash = "canary"
        upstream = "none"
        headers = {{ Host = "x", "Content-Type" = "y" }}
        [clients.inn]
        webhook_secret = "whsec_x"
        [clients.third]
        token_hash = "{HASH}"
    """)
    found = problems({"GATEWAY_TOKEN": "t", "GATEWAY_PORT": "x"}, path)
    assert len(found) == 8
    assert sum("[clients.shop]" in line for line in found) == 4


def test_the_gateways_own_token_as_a_clients(toml: Any) -> None:
    """One token for two clients would show one the other's callbacks."""
    (line,) = problems({"GATEWAY_TOKEN": "canary-token"}, toml(f"[clients.shop]\ntoken_hash = '{HASH}'"))
    assert "[clients.shop]: its token is also that of GATEWAY_TOKEN" in line


def test_other_hosts_need_a_token_or_a_client(toml: Any) -> None:
    """A client's token closes the gateway as GATEWAY_TOKEN does; a table without a token does not."""
    environ = {"GATEWAY_HOST": "0.0.0.0"}
    assert load(environ, toml(f"[clients.shop]\ntoken_hash = '{HASH}'")).clients
    (line,) = problems(environ, toml("[clients.default]\nrate = '1/1'"))
    assert "no token" in line
    (line,) = problems(environ, toml("[clients.shop]\ntoken_hash = 'canary'"))
    assert "write sha256:" in line, "one mistake, one line"
