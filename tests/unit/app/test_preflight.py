"""What is refused before anything is opened or written: every mistake in one report, and which upstreams there are."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.preflight import preflight, warnings
from gateway.config.load import load
from gateway.config.profilefile import config_dir
from gateway.config.settings import Settings
from gateway.config.tokens import hash_line, make_token
from gateway.core.errors import ConfigError
from gateway.core.ratelimit import RateWindow

KEY = {"GATEWAY_UPSTREAM_API_KEY": "sk-canary"}
LIMITS = {"aigptimage": (RateWindow(2, 1.0), RateWindow(60, 60.0)), "kie": (RateWindow(10, 1.0),)}
SHOP = f'[clients.shop]\ntoken_hash = "{hash_line("shops")}"\n'


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Settings]:
    """Check settings with a database in an empty folder: the environment's, and the TOML file's text."""

    def check(text: str = "", /, **environ: str) -> Settings:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        database = tmp_path / "data" / "gateway.db"
        database.parent.mkdir(exist_ok=True)
        return preflight({"GATEWAY_DATABASE_URL": f"sqlite:///{database}", **environ}, path)

    return check


@pytest.fixture
def refused(checked: Callable[..., Settings], tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The same for settings that must be refused; return the report. Nothing is written, and no secret shown."""

    def check(text: str = "", /, **environ: str) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            checked(text, **environ)
        assert "canary" not in str(caught.value)
        assert not list((tmp_path / "data").glob("gateway.*"))
        return caught.value.problems

    return check


def by_name(result: Settings) -> dict[str, Any]:
    return {upstream.name: upstream for upstream in result.upstreams}


# Which upstreams there are.


def test_the_default_upstream_is_what_its_profile_says(checked: Any) -> None:
    """Without settings of its own: URL and limits of the shipped profile."""
    (only,) = checked(**KEY).upstreams
    assert (only.name, only.url, only.api_key) == (
        *("aigptimage", "https://aigptimage.com"),
        "sk-canary",
    )
    assert (only.rate, only.default) == (LIMITS["aigptimage"], True)


def test_gateway_upstream_names_a_profile_without_a_table(checked: Any) -> None:
    """What GATEWAY_UPSTREAM_… says is then about that one, and its base URL and limits are its own profile's."""
    (only,) = checked(GATEWAY_UPSTREAM="kie", **KEY).upstreams
    assert (only.name, only.profile.name, only.default) == ("kie", "kie", True)
    assert (only.url, only.api_key) == ("https://api.kie.ai", "sk-canary")
    assert only.rate == LIMITS[only.profile.name]
    (only,) = checked(
        GATEWAY_UPSTREAM="kie", GATEWAY_UPSTREAM_URL="http://127.0.0.1:9", GATEWAY_UPSTREAM_RATE="1/1"
    ).upstreams
    assert (only.url, only.rate) == ("http://127.0.0.1:9", (RateWindow(1, 1.0),))


def test_gateway_upstream_names_a_table(checked: Any) -> None:
    """The others stand beside it; no key is asked for an upstream that nobody configured."""
    text = '[upstreams.luma]\napi_key = "l"\n[upstreams.second]\nprofile = "kie"\napi_key = "sk-canary"\nrate = "5/1"\n'
    result = checked(text, GATEWAY_UPSTREAM="second")
    assert [(u.name, u.default) for u in result.upstreams] == [("second", True), ("luma", False)]
    second = by_name(result)["second"]
    assert (second.profile.name, second.api_key) == ("kie", "sk-canary")
    assert second.rate == (RateWindow(5, 1.0),)


def test_the_default_upstream_may_have_a_table(checked: Any) -> None:
    """Its keys and GATEWAY_UPSTREAM_… together make it."""
    text = '[upstreams.aigptimage]\ncreate_rate = "5/1,180/60"\nrate = "9/1"\n'
    (only,) = checked(text, **KEY).upstreams
    assert only.create_rate == (RateWindow(5, 1.0), RateWindow(180, 60.0))
    assert (only.rate, only.api_key) == ((RateWindow(9, 1.0),), "sk-canary")


def test_one_fact_about_the_default_upstream_has_one_place(refused: Any) -> None:
    """A key in the environment may be that of the upstream that was the default before: it is sent nowhere else."""
    text = '[upstreams.kie]\napi_key = "canary-2"\nurl = "http://127.0.0.1:1"\nrate = "1/1"\n'
    environ = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:2", "GATEWAY_UPSTREAM_RATE": "2/1", **KEY}
    report = refused(text, GATEWAY_UPSTREAM="kie", **environ)
    assert [line.partition(", which")[0] for line in report] == [
        f"[upstreams.kie]: got both {key} and GATEWAY_UPSTREAM_{key.upper()}" for key in ("url", "api_key", "rate")
    ]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (f'{SHOP}upstream = "kie"\n', {}),
        (f'{SHOP}upstream = "kie"\n[clients.default]\nupstream = "kie"\n', {"GATEWAY_TOKEN": "own"}),
        ('[clients.default]\nupstream = "kie"\n', {}),
    ],
)
def test_no_key_is_asked_for_a_default_upstream_that_nobody_uses(checked: Any, text: str, environ: Any) -> None:
    """Where every client that may call has another upstream: then there is no default, and none to be named."""
    result = checked(f'[upstreams.kie]\napi_key = "k"\n{text}', **environ)
    assert [(u.name, u.default) for u in result.upstreams] == [("kie", False)]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (SHOP, {}),
        (f'{SHOP}upstream = "kie"\n', {"GATEWAY_TOKEN": "own"}),
        ("", {}),
        ('[clients.default]\nupstream = "aigptimage"\n', {}),
    ],
)
def test_the_key_of_a_default_upstream_that_is_used_is_asked_for(refused: Any, text: str, environ: Any) -> None:
    """The message names the variable, and the other way out."""
    (line,) = refused(f'[upstreams.kie]\napi_key = "k"\n{text}', **environ)
    assert line.startswith("GATEWAY_UPSTREAM_API_KEY: not set; ")
    assert "GATEWAY_UPSTREAM, such as kie" in line
    assert "`make demo`" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost/x", "http://[::1]:9"])
def test_an_upstream_on_this_machine_needs_no_key(checked: Any, url: str) -> None:
    """A simulated upstream on loopback needs no key."""
    assert checked(f'[upstreams.kie]\nurl = "{url}"\n', GATEWAY_UPSTREAM_URL=url)


def test_own_profiles_stand_beside_the_shipped_ones(checked: Any, tmp_path: Path) -> None:
    """GATEWAY_PROFILES names their folder; one of a shipped profile's name takes its place."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    shipped = (config_dir() / "upstreams" / "kie.toml").read_text()
    for name, url in (("kie", "http://127.0.0.1:1"), ("mine", "http://127.0.0.1:2")):
        text = shipped.replace('name = "kie"', f'name = "{name}"').replace("https://api.kie.ai", url)
        (folder / f"{name}.toml").write_text(text)
    text = "[upstreams.kie]\n[upstreams.mine]\n[upstreams.luma]\napi_key = 'l'\n"
    result = checked(text, GATEWAY_PROFILES=str(folder), **KEY)
    urls = {name: upstream.url for name, upstream in by_name(result).items()}
    assert (urls["kie"], urls["mine"]) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert urls["luma"] == "https://api.lumalabs.ai"
    # The same without the checks, as who builds a gateway from settings gets them.
    assert load({"GATEWAY_PROFILES": str(folder), "GATEWAY_UPSTREAM": "mine"}).upstreams[0].default


# What is refused.


def test_everything_is_in_one_report(refused: Any, tmp_path: Path) -> None:
    """Settings, tables, profiles, keys and folders: whoever mends all of it at once can start."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "broken.toml").write_text('name = "broken"\nbase_url = "https://x"\n[states]\npath = "a..b"\n')
    report = refused(
        "[upstreams.nowhere]\n[upstreams.kie]\n[upstreams.luma]\napi_kee = 1\n[clients.shop]\n",
        GATEWAY_PORT="x",
        GATEWAY_PROFILES=str(folder),
        GATEWAY_DATABASE_URL=f"sqlite:///{tmp_path / 'absent' / 'gateway.db'}",
    )
    expected = (
        ("GATEWAY_PORT: ", "write a whole number"),
        ("[upstreams.luma] in ", "did you mean api_key"),
        ("[clients.shop] in ", "token_hash: missing"),
        (f"{folder}/broken.toml: states.path: ", "regex"),
        (f"{folder}/broken.toml: states: ", "missing required field `success`"),
        (f"{folder}/broken.toml: states: ", "missing required field `fail`"),
        (f"{folder}/broken.toml: ", "missing required field `request`"),
        ("[upstreams.nowhere]: ", "there is no profile nowhere; there are: aigptimage, kie"),
        ("GATEWAY_UPSTREAM_API_KEY: ", "not set"),
        ("[upstreams.kie]: ", "no api_key; write api_key or api_key_file"),
        ("GATEWAY_DATABASE_URL: ", f"there is no folder {tmp_path / 'absent'}"),
    )
    for (place, reason), line in zip(expected, (line for line in report if "status_path" not in line), strict=True):
        assert line.startswith(place)
        assert reason in line


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GATEWAY_UPSTREAM": "none", **KEY}, "GATEWAY_UPSTREAM: there is no profile none; there are: "),
        (
            {"GATEWAY_UPSTREAM": "Ki e", **KEY},
            "GATEWAY_UPSTREAM: got 'Ki e'; write the name of a profile or of a table",
        ),
        ({"GATEWAY_PROFILES": "/nowhere", **KEY}, "GATEWAY_PROFILES: got '/nowhere'; there is no such folder"),
        ({"GATEWAY_PROFILES": "/dev/null", **KEY}, "GATEWAY_PROFILES: got '/dev/null'; Not a directory"),
        ({"GATEWAY_WEBHOOK_SECRET": "whsec_canary", **KEY}, "GATEWAY_WEBHOOK_SECRET: got a value that is not shown"),
        ({"GATEWAY_CALLBACK_ALLOW": "10.0.0.0/99", **KEY}, "GATEWAY_CALLBACK_ALLOW: got '10.0.0.0/99'; "),
        (
            {"GATEWAY_DATABASE_URL": "sqlite:////dev/null/x.db", **KEY},
            "GATEWAY_DATABASE_URL: there is no folder /dev/n",
        ),
        ({"GATEWAY_DATABASE_URL": "sqlite:////dev/shm", **KEY}, "GATEWAY_DATABASE_URL: /dev/shm is no file"),
        ({"GATEWAY_TOKEN": "canary", "GATEWAY_OPERATOR_TOKEN": "canary", **KEY}, "GATEWAY_OPERATOR_TOKEN: it is also"),
    ],
)
def test_each_mistake_is_named(refused: Any, environ: dict[str, str], expected: str) -> None:
    """With what is wrong and what to do."""
    (line,) = refused(**environ)
    assert line.startswith(expected)


def test_the_operators_token_is_no_clients(refused: Any) -> None:
    """Else one of the clients would see the others' callbacks."""
    (line,) = refused(SHOP, GATEWAY_OPERATOR_TOKEN="shops", **KEY)
    assert line == "[clients.shop]: its token is also that of GATEWAY_OPERATOR_TOKEN; give each its own"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"whsec_c2hvcnQ=\n", "5 bytes"), (b"\xff", "cannot be read"), (None, "cannot be")],
)
def test_a_broken_secret_beside_the_database(checked: Any, tmp_path: Path, content: bytes | None, reason: str) -> None:
    """The one that would sign is looked at before anything starts; a folder in its place too."""
    path = tmp_path / "data" / "gateway.secret"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        checked(**KEY)
    (line,) = caught.value.problems
    assert str(path) in line
    assert reason in line


def test_a_secret_behind_a_link_that_leads_nowhere(checked: Any, tmp_path: Path) -> None:
    """Told with the rest, before there is a database: none could be made in its place."""
    path = tmp_path / "data" / "gateway.secret"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "mount" / "gateway.secret")
    with pytest.raises(ConfigError) as caught:
        checked(GATEWAY_PORT="x", **KEY)
    port, secret = caught.value.problems
    assert port.startswith("GATEWAY_PORT")
    assert secret.startswith(f"{path} leads to a file that is not there. Put it back")
    assert list(path.parent.iterdir()) == [path]


def test_a_database_that_cannot_be_used(checked: Any, tmp_path: Path) -> None:
    """Told with the rest, in the words of the start."""
    path = tmp_path / "data" / "gateway.db"
    path.parent.mkdir()
    path.write_text("Dear diary, " * 1000)
    (tmp_path / "data" / "gateway.secret").write_text("")
    with pytest.raises(ConfigError) as caught:
        checked(GATEWAY_PORT="x", **KEY)
    port, database, secret = caught.value.problems
    assert port.startswith("GATEWAY_PORT")
    assert database == (
        f"{path} is not an SQLite database; it was not touched. Set GATEWAY_DATABASE_URL to another file."
    )
    assert "is empty" in secret


@pytest.mark.parametrize(
    ("leads_to", "expected"),
    [
        ("absent/gateway.db", "there is no folder {0}/absent;"),
        ("data/gateway.db", "{0}/data/gateway.db: "),  # to itself
        ("..", "{0}/data/gateway.db is no file;"),
    ],
)
def test_a_database_behind_a_link_that_leads_nowhere(
    checked: Any, tmp_path: Path, leads_to: str, expected: str
) -> None:
    """Its files would stand where the link leads."""
    path = tmp_path / "data" / "gateway.db"
    path.parent.mkdir()
    path.symlink_to(tmp_path / leads_to)
    with pytest.raises(ConfigError) as caught:
        checked(**KEY)
    (line,) = caught.value.problems
    assert line.startswith(f"GATEWAY_DATABASE_URL: {expected.format(tmp_path)}")


@pytest.fixture
def everybodys_folder() -> Iterator[Path]:
    """A folder that others may go through, as they may not through ``tmp_path``."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_folders_that_this_user_may_not_write(everybodys_folder: Path) -> None:
    """Found by asking, not by writing; root, who may everything, asks as nobody."""
    closed = everybodys_folder / "closed"
    closed.mkdir()
    (closed / "gateway.db").touch(0o600)
    for mode, expected in (
        (0o555, "may not write in the folder"),
        (0o777, "may not read and write"),
        (0o600, "may not write in the folder"),
    ):
        if os.geteuid() != 0 and mode == 0o777:
            (closed / "gateway.db").chmod(0o400)
        closed.chmod(mode)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # an own process, as nobody may become root again; whatever comes of it, it is no test
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                preflight({"GATEWAY_DATABASE_URL": f"sqlite:///{closed / 'gateway.db'}", **KEY}, None)
            except ConfigError as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read) as pipe:
            (line,) = pipe.read().splitlines()
        assert line.startswith("GATEWAY_DATABASE_URL: ")
        assert expected in line
    closed.chmod(0o700)


# A server's database, which replicas share.

SERVER = "postgresql://gateway@db.example/gateway"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_servers_database_is_asked_nothing(checked: Any) -> None:
    """Nobody need be there: only what can be said of the settings is checked, and nothing is made beside a file."""
    settings = checked(GATEWAY_DATABASE_URL=SERVER, GATEWAY_WEBHOOK_SECRET=SECRET, **KEY)
    assert settings.database_url == SERVER


def test_replicas_need_a_secret_that_is_given(refused: Any) -> None:
    """One that each made for itself would have receivers refuse the others' webhooks."""
    (problem,) = refused(GATEWAY_DATABASE_URL=SERVER, **KEY)
    assert problem.startswith("GATEWAY_WEBHOOK_SECRET: not set; replicas that share a database")
    assert "gateway make-secret" in problem


def test_files_that_the_url_names_are_looked_at(refused: Any) -> None:
    """A root certificate or a file of passwords that is not there is found before the start."""
    url = f"{SERVER}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem"
    (problem,) = refused(GATEWAY_DATABASE_URL=url, GATEWAY_WEBHOOK_SECRET=SECRET, **KEY)
    assert problem.startswith("GATEWAY_DATABASE_URL: sslrootcert=/nowhere/ca.pem: No such file or directory")


def test_a_missing_package_is_named(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    monkeypatch.setattr("gateway.app.preflight.find_spec", lambda name: None)
    (problem,) = refused(GATEWAY_DATABASE_URL=SERVER, GATEWAY_WEBHOOK_SECRET=SECRET, **KEY)
    assert problem == "GATEWAY_DATABASE_URL: PostgreSQL needs a package more: pip install 'asyncpg>=0.32,<0.33'"


# Where operator events go.


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/events?key=k",
        "http://10.0.0.7:9000/events",
        "http://localhost:9000",
        "http://[::1]:9000/events",
        "http://bridge.monitoring.svc/events",
    ],
)
def test_the_operators_own_word_is_enough_for_where_events_go(checked: Any, url: str) -> None:
    """No entry has to open it, as that would open it to callbacks too."""
    result = checked(**KEY, GATEWAY_EVENTS_URL=url)
    assert result.events_url == url
    assert url not in repr(result)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hooks.example.com/canary", "must be absolute"),
        ("ftp://hooks.example.com/canary", "https URLs only"),
        ("https://canary:canary@hooks.example.com/", "user name or password"),
        ("http://169.254.169.254/canary", "cloud metadata service; no setting allows it"),
        ("http://metadata.google.internal/canary", "cloud metadata service; no setting allows it"),
    ],
)
def test_where_events_cannot_go_is_refused_at_the_start(refused: Any, url: str, why: str) -> None:
    """In the one report, and without the URL, which may hold a key."""
    (problem,) = refused(**KEY, GATEWAY_EVENTS_URL=url)
    assert problem.startswith("GATEWAY_EVENTS_URL: ")
    assert why in problem


def test_a_token_that_can_be_guessed_is_told_of(checked: Any) -> None:
    """Nothing limits wrong ones at the API: what somebody made up is no secret, and what the command makes is one."""
    tokens = {"GATEWAY_TOKEN": "hunter2-canary", "GATEWAY_OPERATOR_TOKEN": make_token()}
    told = [one for one in warnings(checked(**KEY, **tokens), 0.0) if "TOKEN" in one]
    assert [one.partition(":")[0] for one in told] == ["GATEWAY_TOKEN"]
    assert "make-secret --token" in told[0]
    assert "canary" not in told[0]
