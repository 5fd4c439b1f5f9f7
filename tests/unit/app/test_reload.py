"""What a reload finds changed: what counts at once, what needs a restart, and what would not be right together."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.app.gateway import Changed
from gateway.app.reload import changes
from gateway.config.load import load
from gateway.config.settings import Settings
from gateway.config.tokens import hash_line
from gateway.core.errors import ConfigError, SecretError
from gateway.signature import make_secret

SHOP = f'[clients.shop]\ntoken_hash = "{hash_line("shops")}"\n'
KIE = '[upstreams.kie]\napi_key = "k1"\n'
SECRET = make_secret()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    """Read settings: the environment's, and the TOML file's text."""

    def reads(text: str = "", /, **environ: str) -> Settings:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        own = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}", "GATEWAY_WEBHOOK_SECRET": SECRET}
        return load(own | environ, path)

    return reads


def found(old: Settings, new: Settings) -> Changed:
    return changes(old, SECRET, new)


def test_nothing_has_changed(read: Callable[..., Settings]) -> None:
    """Two readings of the same files are the same."""
    changed = found(read(KIE + SHOP), read(KIE + SHOP))
    assert (changed.names, changed.restart, changed.keys, changed.secret) == ([], [], {}, SECRET)


def test_what_counts_at_once(read: Callable[..., Settings]) -> None:
    """Secrets, tokens, clients and the upstreams' keys, each by its name; no value of theirs is in a name."""
    new_secret = make_secret()
    changed = found(
        read(KIE + SHOP, GATEWAY_TOKEN="t1", GATEWAY_UPSTREAM_API_KEY="a1"),
        read(
            KIE.replace("k1", "k2") + SHOP + 'rate = "1/1"\n[clients.new]\ntoken_hash = "' + hash_line("n") + '"\n',
            GATEWAY_TOKEN="t2",
            GATEWAY_OPERATOR_TOKEN="o",
            GATEWAY_WEBHOOK_SECRET=f"{new_secret} {SECRET}",
            GATEWAY_RECORD_HMAC_KEY="h",
            GATEWAY_UPSTREAM_API_KEY="a2",
        ),
    )
    assert sorted(changed.names) == [
        "GATEWAY_OPERATOR_TOKEN",
        "GATEWAY_RECORD_HMAC_KEY",
        "GATEWAY_TOKEN",
        "GATEWAY_WEBHOOK_SECRET",
        "[clients.new]",
        "[clients.shop]",
        "[upstreams.aigptimage] api_key",
        "[upstreams.kie] api_key",
    ]
    assert changed.restart == []
    assert changed.keys == {"kie": "k2", "aigptimage": "a2"}
    assert (changed.secret, changed.settings.token) == (f"{new_secret} {SECRET}", "t2")
    assert changed.settings.record_hmac_key == "h"
    assert [client.name for client in changed.settings.clients] == ["shop", "new"]


def test_what_needs_a_restart(read: Callable[..., Settings]) -> None:
    """It is named, and stays what it was; what else has changed counts. Where clients look is no business of ours."""
    old = read(KIE, GATEWAY_PORT="1")
    new = read(
        KIE + 'rate = "1/1"\n[upstreams.luma]\n',
        GATEWAY_PORT="2",
        GATEWAY_DRAIN_S="1",
        GATEWAY_UPSTREAM_URL="http://127.0.0.1:1",
        GATEWAY_URL="http://127.0.0.1:2",
        GATEWAY_TOKEN="t",
    )
    changed = found(old, new)
    assert changed.restart == [
        *("GATEWAY_DRAIN_S", "GATEWAY_PORT", "GATEWAY_UPSTREAM_URL"),
        *("[upstreams.aigptimage]", "[upstreams.kie]", "[upstreams.luma]"),
    ]
    assert (changed.names, changed.keys) == (["GATEWAY_TOKEN"], {})
    assert (changed.settings.port, changed.settings.drain_s, changed.settings.token) == (1, 10.0, "t")


def test_a_client_of_an_upstream_that_needs_a_restart(read: Callable[..., Settings]) -> None:
    """Its callbacks could not be registered: the whole is refused, and nothing changes by halves."""
    with pytest.raises(ConfigError, match=r"\[clients.shop\]: upstream: luma is not there before a restart"):
        found(read(KIE), read("[upstreams.luma]\n" + SHOP + 'upstream = "luma"\n'))


@pytest.mark.parametrize(
    ("text", "environ", "whose"),
    [
        (f'[clients.inn]\ntoken_hash = "{hash_line("inns")}"\n', {}, "inn"),
        ("", {"GATEWAY_TOKEN": "t"}, "default"),
        ('[clients.default]\nrate = "1/1"\n', {"GATEWAY_TOKEN": "t"}, "default"),
    ],
)
def test_a_client_of_a_default_upstream_that_needs_a_restart(
    read: Callable[..., Settings], text: str, environ: dict[str, str], whose: str
) -> None:
    """Runs without a default upstream, which nobody used: who would use it cannot come before it does."""
    shop = KIE + SHOP + 'upstream = "kie"\n'
    old = read(shop)
    assert [upstream.name for upstream in old.upstreams] == ["kie"]
    new = read(shop + text, GATEWAY_UPSTREAM_API_KEY="a", **environ)
    with pytest.raises(ConfigError) as caught:
        found(old, new)
    assert caught.value.problems == (f"[clients.{whose}]: upstream: aigptimage is not there before a restart",)


def test_a_client_that_leaves_its_upstream_for_one_that_is_not_there(read: Callable[..., Settings]) -> None:
    """A table's line that goes is a change like one that comes."""
    shop = KIE + SHOP
    with pytest.raises(ConfigError, match=r"\[clients.shop\]: upstream: aigptimage is not there"):
        found(read(shop + 'upstream = "kie"\n'), read(shop, GATEWAY_UPSTREAM_API_KEY="a"))


def test_a_table_of_nobody_who_may_call(read: Callable[..., Settings]) -> None:
    """Without GATEWAY_TOKEN nobody is the client default: its upstream can wait for the restart."""
    new = read(KIE + "[upstreams.luma]\n" + SHOP + '[clients.default]\nupstream = "luma"\n')
    assert found(read(KIE + SHOP), new).restart == ["[upstreams.luma]"]


def test_the_last_token_stays_where_everybody_could_call(read: Callable[..., Settings]) -> None:
    """The new file may listen elsewhere; this process still listens where it does."""
    old = read(GATEWAY_HOST="0.0.0.0", GATEWAY_TOKEN="t")
    with pytest.raises(ConfigError, match="it still listens on 0"):
        found(old, read(GATEWAY_OPERATOR_TOKEN="o"))
    assert found(old, read(SHOP)).settings.token is None


def test_the_secret_beside_the_database(read: Callable[..., Settings], tmp_path: Path) -> None:
    """It is read anew, and one that has gone or is broken is refused: never is another one made meanwhile."""
    path = tmp_path / "gateway.secret"
    old, new = read(GATEWAY_WEBHOOK_SECRET=""), read(GATEWAY_WEBHOOK_SECRET="")
    path.write_text(f"{SECRET}\n")
    assert changes(old, SECRET, new).names == []
    other = make_secret()
    path.write_text(f"{other} {SECRET}")
    changed = changes(old, SECRET, new)
    assert (changed.names, changed.secret) == ([str(path)], f"{other} {SECRET}")
    path.write_text("whsec_c2hvcnQ=")
    with pytest.raises(SecretError):
        changes(old, SECRET, new)
    path.unlink()
    with pytest.raises(SecretError, match="there is no secret any more"):
        changes(old, SECRET, new)
    assert not path.exists()


def test_tables_of_receivers(read: Callable[..., Settings]) -> None:
    """One that is new, gone or another is named by its match; wherever it stands among the others it is the same."""
    a, b, c = (f'[[receivers]]\nmatch = "https://{name}.example"\ntimeout_s = 3\n' for name in "abc")
    changed = found(read(a + b), read(c + b.replace("3", "4")))
    assert changed.names == [f"[[receivers]] https://{name}.example" for name in "abc"]
    assert changed.restart == []
    assert [one.match for one in changed.settings.receivers] == ["https://c.example", "https://b.example"]
    assert found(read(a + b), read(b + a)).names == []


def test_attempts_that_claims_do_not_last_for(read: Callable[..., Settings]) -> None:
    """Replicas claim for the longest attempt that there was at the start: a longer one needs a restart, a file none."""
    shared = {"GATEWAY_DATABASE_URL": "postgresql://user@host/db"}
    table = '[[receivers]]\nmatch = "https://a.example"\ntimeout_s = {}\n'
    before, after = read(table.format(40), **shared), read(table.format(41), **shared)
    with pytest.raises(ConfigError) as refused:
        found(before, after)
    assert "timeout_s: claims last for attempts of 40 s; restart the gateway" in refused.value.problems[0]
    assert found(before, read(table.format(30), **shared)).names == ["[[receivers]] https://a.example"]
    assert found(read(table.format(40)), read(table.format(41))).names == ["[[receivers]] https://a.example"]
