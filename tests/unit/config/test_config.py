"""Settings: where they come from, every kind of mistake in one report, and one table behind all the documentation."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli.commands import cli
from gateway.config.egressproxy import parse_proxy
from gateway.config.example import example
from gateway.config.load import load, load_some
from gateway.config.profilefile import config_dir
from gateway.config.settings import SETTINGS, Settings, database_path
from gateway.core.errors import ConfigError, SecretError
from gateway.core.ratelimit import RateWindow
from tests.manual import MANUAL, README, ROOT

SECRET = "s3cr3t-value-that-nobody-may-see"
PROXY = f"http://user:{SECRET}@proxy.internal:3128"


def problems(environ: Mapping[str, str], path: Path | None = None, **validators: Any) -> tuple[str, ...]:
    """Load settings that must be refused and return the report's lines."""
    with pytest.raises(ConfigError) as caught:
        load(environ, path, validators)
    return caught.value.problems


def problem(environ: Mapping[str, str], path: Path | None = None, **validators: Any) -> str:
    """Load settings that must be refused for one reason alone and return its line."""
    (line,) = problems(environ, path, **validators)
    return line


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Write a TOML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "gateway.toml"
        path.write_text(text, "utf-8")
        return path

    return write


# Values.


def test_defaults() -> None:
    """With nothing given every setting has its documented default."""
    assert msgspec.structs.replace(load({}), upstreams=()) == Settings(
        host="127.0.0.1",
        port=8080,
        root_path="",
        database_url="sqlite:///gateway.db",
        database_password=None,
        upstream="aigptimage",
        upstream_url=None,
        upstream_api_key=None,
        upstream_rate=None,
        upstream_proxy=None,
        profiles=None,
        proxy_format="record",
        webhook_secret=None,
        record_hmac_key=None,
        token=None,
        operator_token=None,
        callback_allow=(),
        poll_min_s=1.0,
        poll_max_s=30.0,
        proxy_watch_s=60.0,
        result_max_bytes=33_554_432,
        memory_bytes=67_108_864,
        retry_schedule=(0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
        attempt_timeout_s=15.0,
        drain_s=10.0,
        retention_days=30.0,
        ready_upstreams="any",
        events_url=None,
        log_format=None,
        log_level="info",
        url=None,
    )


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("GATEWAY_HOST", "::1", "::1"),
        ("GATEWAY_HOST", "[::1]", "::1"),
        ("GATEWAY_HOST", "LocalHost", "localhost"),
        ("GATEWAY_HOST", "127.8.8.8", "127.8.8.8"),
        ("GATEWAY_PORT", "0", 0),
        ("GATEWAY_PORT", " 65535 ", 65535),
        ("GATEWAY_ROOT_PATH", "/tools/gateway/", "/tools/gateway"),
        ("GATEWAY_ROOT_PATH", "/", ""),
        ("GATEWAY_DATABASE_URL", "sqlite:////data/gateway.db", "sqlite:////data/gateway.db"),
        ("GATEWAY_UPSTREAM_URL", "http://localhost:9/base/", "http://localhost:9/base"),
        ("GATEWAY_UPSTREAM_API_KEY", "sk-1", "sk-1"),
        ("GATEWAY_UPSTREAM_RATE", " 5/0.5 , 100/60 ", (RateWindow(5, 0.5), RateWindow(100, 60.0))),
        ("GATEWAY_WEBHOOK_SECRET", " whsec_a  whsec_b ", ("whsec_a", "whsec_b")),
        ("GATEWAY_PROXY_FORMAT", "standard", "standard"),
        ("GATEWAY_RECORD_HMAC_KEY", "k3y+/=", "k3y+/="),
        ("GATEWAY_TOKEN", "t", "t"),
        ("GATEWAY_CALLBACK_ALLOW", "localhost, 10.0.0.0/8,app:8443,", ("localhost", "10.0.0.0/8", "app:8443")),
        ("GATEWAY_POLL_MIN_S", "0.02", 0.02),
        ("GATEWAY_POLL_MAX_S", "1.5", 1.5),
        ("GATEWAY_PROXY_WATCH_S", "0", 0.0),
        ("GATEWAY_RESULT_MAX_BYTES", "1024", 1024),
        ("GATEWAY_MEMORY_BYTES", "1048576", 1_048_576),
        ("GATEWAY_RETRY_SCHEDULE", "0, 0.5,5", (0.0, 0.5, 5.0)),
        ("GATEWAY_ATTEMPT_TIMEOUT_S", "0.2", 0.2),
        ("GATEWAY_DRAIN_S", "0", 0.0),
        ("GATEWAY_RETENTION_DAYS", "0.5", 0.5),
        ("GATEWAY_LOG_FORMAT", "json", "json"),
        ("GATEWAY_LOG_FORMAT", "console", "console"),
    ],
)
def test_variable_is_parsed(variable: str, text: str, value: object) -> None:
    """Each variable's text becomes a typed value, spaces around it ignored."""
    assert getattr(load({variable: text}), variable.removeprefix("GATEWAY_").lower()) == value


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("port = 9000", 9000),
        ('port = "9000"', 9000),
        ("poll_min_s = 0.25", 0.25),
        ("drain_s = 3", 3.0),
        ("retry_schedule = [0, 1.5, 60]", (0.0, 1.5, 60.0)),
        ('retry_schedule = "0,1"', (0.0, 1.0)),
        ('upstream_rate = ["2/1", "60/60"]', (RateWindow(2, 1.0), RateWindow(60, 60.0))),
        ('callback_allow = ["localhost", "10.0.0.0/8"]', ("localhost", "10.0.0.0/8")),
        ("callback_allow = []", ()),
        ('webhook_secret = ["whsec_a", "whsec_b"]', ("whsec_a", "whsec_b")),
        ('token = ""', None),
    ],
)
def test_toml_takes_native_types(toml: Any, line: str, value: object) -> None:
    """A TOML value may be a number, a string or, for lists, an array."""
    assert getattr(load({}, toml(line)), line.split(" ")[0]) == value


def test_environment_wins_over_the_file(toml: Any) -> None:
    """A variable wins over the file's key, and what only the file gives stays."""
    settings = load({"GATEWAY_PORT": "2"}, toml("port = 1\ndrain_s = 4"))
    assert (settings.port, settings.drain_s) == (2, 4.0)


def test_gateway_config_names_the_file(toml: Any, tmp_path: Path) -> None:
    """GATEWAY_CONFIG names the file, unless the command line does."""
    path = toml("port = 1")
    assert load({"GATEWAY_CONFIG": str(path)}).port == 1
    assert load({"GATEWAY_CONFIG": str(tmp_path / "absent.toml")}, path).port == 1


@pytest.mark.parametrize(
    "variable", ["GATEWAY_TOKEN", "GATEWAY_UPSTREAM_API_KEY", "GATEWAY_WEBHOOK_SECRET", "GATEWAY_CALLBACK_ALLOW"]
)
def test_empty_variable_is_not_given_where_there_is_no_default(toml: Any, variable: str) -> None:
    """An empty optional variable, as compose files make them, leaves the file's value: it never drops a token."""
    key = variable.removeprefix("GATEWAY_").lower()
    value = getattr(load({variable: "  "}, toml(f'{key} = "kept"')), key)
    assert value in ("kept", ("kept",))


def written_secret(setting: Any, number: int | None = None) -> str:
    """Return a setting's secret, another one for each number: of a proxy it is the password."""
    return PROXY if setting.key.endswith("proxy") else SECRET if number is None else f"{SECRET}{number}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("setting", [row for row in SETTINGS if row.secret], ids=lambda row: row.env)
def test_secret_from_a_file(tmp_path: Path, setting: Any, encoding: str) -> None:
    """A secret may stand in a file that …_FILE names; a BOM and the newline at its end do not count."""
    path = tmp_path / "secret"
    written = written_secret(setting)
    path.write_text(f"{written}\n", encoding)
    assert getattr(load({f"{setting.env}_FILE": str(path)}), setting.key) in (written, (written,), parse_proxy(PROXY))


def test_repr_hides_secrets() -> None:
    """No secret shows in the settings' repr, nor does the repr look as if it were unset."""
    secrets = {row.env: written_secret(row, index) for index, row in enumerate(SETTINGS) if row.secret}
    shown = repr(load(secrets))
    assert SECRET not in shown
    assert shown.count("***") == len(secrets) == 8
    assert "host='127.0.0.1', port=8080" in shown
    assert "token=None" in repr(load({}))
    assert SECRET not in repr(load({"GATEWAY_DATABASE_URL": f"postgresql://ann:{SECRET}@host/x"}))


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///gateway.db", "gateway.db"), ("sqlite:////data/gateway.db", "/data/gateway.db")]
)
def test_database_path(url: str, path: str) -> None:
    """Three slashes are a path from the working directory on, four an absolute one; both are told whole."""
    assert database_path(load({"GATEWAY_DATABASE_URL": url}).database_url) == Path.cwd() / path


# Mistakes.


@pytest.mark.parametrize(
    ("variable", "text", "advice"),
    [
        ("GATEWAY_ROOT_PATH", "/dashboard/", "take another path"),
        ("GATEWAY_ROOT_PATH", "/api/v1", "take another path"),
        ("GATEWAY_HOST", "127.0.0.1:80", "the port goes into GATEWAY_PORT"),
        ("GATEWAY_HOST", "http://localhost", "host name alone"),
        ("GATEWAY_HOST", "*", "write an IP address"),
        ("GATEWAY_HOST", "127.0.0.256", "write an IP address"),
        ("GATEWAY_HOST", "0", "write an IP address"),
        ("GATEWAY_PORT", "http", "write a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "65536", "write a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "-1", "write a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "80.5", "write a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "", "write a whole number from 0 to 65535"),
        ("GATEWAY_DATABASE_URL", "gateway.db", "sqlite:///relative/file.db, sqlite:////absolute/file.db or"),
        ("GATEWAY_DATABASE_URL", "sqlite://gateway.db", "sqlite:///relative/file.db"),
        ("GATEWAY_DATABASE_URL", "sqlite:///", "sqlite:///relative/file.db"),
        ("GATEWAY_DATABASE_URL", "sqlite:///:memory:", "sqlite:///relative/file.db"),
        ("GATEWAY_DATABASE_URL", "sqlite:////data/", "sqlite:///relative/file.db"),
        ("GATEWAY_DATABASE_URL", "sqlite:///x.db?mode=ro", "without options"),
        ("GATEWAY_DATABASE_URL", "mysql://host/db", "sqlite:///relative/file.db"),
        ("GATEWAY_PROXY_FORMAT", "Record", "write record or standard"),
        ("GATEWAY_RECORD_HMAC_KEY", "a key", "write visible ASCII characters without spaces"),
        ("GATEWAY_UPSTREAM_URL", "aigptimage.com", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "ftp://aigptimage.com", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "https://", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "https://host:port", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "https://[::1", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "https://ho st/", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_URL", "https://host/?a=1", "without a query string"),
        ("GATEWAY_UPSTREAM_URL", "", "write an http or https URL"),
        ("GATEWAY_UPSTREAM_API_KEY", "a b", "visible ASCII"),
        ("GATEWAY_UPSTREAM_RATE", "2", "such as 2/1,60/60"),
        ("GATEWAY_UPSTREAM_RATE", "2/1/1", "such as 2/1,60/60"),
        ("GATEWAY_UPSTREAM_RATE", "0/1", "1 to 1000000 requests"),
        ("GATEWAY_UPSTREAM_RATE", "1.5/1", "1 to 1000000 requests"),
        ("GATEWAY_UPSTREAM_RATE", "2/0", "0.001 to 86400 seconds"),
        ("GATEWAY_UPSTREAM_RATE", "2/1;60/60", "such as 2/1,60/60"),
        ("GATEWAY_UPSTREAM_RATE", "", "such as 2/1,60/60"),
        ("GATEWAY_TOKEN", "tökén", "visible ASCII"),
        ("GATEWAY_POLL_MIN_S", "soon", "write a number of seconds from 0.001 to 86400"),
        ("GATEWAY_POLL_MIN_S", "0", "write a number of seconds from 0.001 to 86400"),
        ("GATEWAY_POLL_MAX_S", "inf", "write a number of seconds from 0.001 to 86400"),
        ("GATEWAY_PROXY_WATCH_S", "-1", "write a number of seconds from 0 to 86400"),
        ("GATEWAY_RESULT_MAX_BYTES", "32 MiB", "write a whole number from 1024 to 134217728"),
        ("GATEWAY_RETRY_SCHEDULE", "", "at least one"),
        ("GATEWAY_RETRY_SCHEDULE", ",", "at least one"),
        ("GATEWAY_RETRY_SCHEDULE", "0 5 300", "separated by commas"),
        ("GATEWAY_RETRY_SCHEDULE", "0,-5", "write a number of seconds from 0 to 2592000"),
        ("GATEWAY_ATTEMPT_TIMEOUT_S", "nan", "write a number of seconds from 0.001 to 3600"),
        ("GATEWAY_ATTEMPT_TIMEOUT_S", "15s", "write a number of seconds from 0.001 to 3600"),
        ("GATEWAY_DRAIN_S", "-1", "write a number of seconds from 0 to 3600"),
        ("GATEWAY_RETENTION_DAYS", "0", "write a number of days from 0.001 to 36500"),
        ("GATEWAY_READY_UPSTREAMS", "none", "write any or all"),
        ("GATEWAY_LOG_FORMAT", "xml", "write console or json"),
    ],
)
def test_mistake_is_named_with_what_to_write(variable: str, text: str, advice: str) -> None:
    """Each mistake is one line: the variable, what was given (unless it is a secret), what to write instead."""
    line = problem({variable: text})
    assert line.startswith(f"{variable}: got ")
    assert advice in line
    if next(row for row in SETTINGS if row.env == variable).secret:
        assert text not in line
    else:
        assert repr(text.partition("?")[0])[:-1] in line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("port = true", "True"),
        ("port = [80]", "[80]"),
        ("port = {}", "{}"),
        ("port = 80.0", "80.0"),
        ("drain_s = 2026-01-01", "2026-01-01"),
        ("retry_schedule = []", "[]"),
        ("retry_schedule = [[1]]", "[[1]]"),
        ("upstream_rate = [2, 1]", "[2, 1]"),
        ('log_format = "xml"', "xml"),
        ("poll_max_s = nan", "nan"),
    ],
)
def test_mistake_in_the_file_names_key_and_file(toml: Any, line: str, shown: str) -> None:
    """A mistake in the file is named by its key and the file."""
    path = toml(line)
    report = problem({}, path)
    assert report.startswith(f"{line.split(' ')[0]} in {path}: got '{shown}'; ")
    assert "write " in report


def test_all_mistakes_are_reported_together(toml: Any) -> None:
    """One start shows every mistake: of the environment, the file, between settings, and of the wiring's checks."""

    def refuse(_: object) -> None:
        raise SecretError("write a better one")

    path = toml("drain_s = -1\nprot = 1\npoll_min_s = 60")
    environ = {
        "GATEWAY_PORT": "x",
        "GATEWAY_LOG_FORMATT": "json",
        "GATEWAY_HOST": "0.0.0.0",
        "GATEWAY_DATABASE_URL": "x",
    }
    report = problems(environ | {"GATEWAY_WEBHOOK_SECRET": SECRET}, path, webhook_secret=refuse)
    assert [line.partition(":")[0] for line in report] == [
        "GATEWAY_LOG_FORMATT",
        f"prot in {path}",
        "GATEWAY_PORT",
        "GATEWAY_DATABASE_URL",
        "GATEWAY_WEBHOOK_SECRET",
        f"drain_s in {path}",
        f"poll_min_s in {path}, GATEWAY_POLL_MAX_S",
        "GATEWAY_HOST",
    ]
    assert SECRET not in "".join(report)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GATEWAY_PROT", "did you mean GATEWAY_PORT?"),
        ("GATEWAY_TOKENS", "did you mean GATEWAY_TOKEN?"),
        ("GATEWAY_TOKEN_FILES", "did you mean GATEWAY_TOKEN_FILE?"),
        ("GATEWAY_FROBNICATE_EVERYTHING", "unset it"),
        ("GATEWAY_PORTS", "did you mean GATEWAY_PORT?"),
        ("GATEWAY_SERVICE_HOSTS", "did you mean GATEWAY_HOST?"),
        ("GATEWAY_REDIS_PORT", "did you mean GATEWAY_PORT?"),
    ],
)
def test_unknown_variable(name: str, advice: str) -> None:
    """A GATEWAY_ variable that is no setting is refused with the likely one, and its value is not shown."""
    line = problem({name: SECRET, "OTHER_VARIABLE": "ignored"})
    assert line == f"{name}: no such setting; {line.partition('; ')[2]}"
    assert advice in line


SERVICE_LINKS = {
    "{}_SERVICE_HOST": "10.0.0.7",
    "{}_SERVICE_PORT": "8080",
    "{}_SERVICE_PORT_HTTP": "8080",
    "{}_PORT": "tcp://10.0.0.7:8080",
    "{}_PORT_8080_TCP": "tcp://10.0.0.7:8080",
    "{}_PORT_8080_TCP_PROTO": "tcp",
    "{}_PORT_8080_TCP_PORT": "8080",
    "{}_PORT_8080_TCP_ADDR": "10.0.0.7",
}
"""What Kubernetes makes for a Service, by its name in capitals and underscores."""


@pytest.mark.parametrize("service", ["GATEWAY", "GATEWAY_REDIS", "GATEWAY_TOKEN", "GATEWAY_POSTGRES_15"])
def test_what_kubernetes_makes_for_a_service_is_passed_over(toml: Any, service: str) -> None:
    """No setting is taken from it, whatever the Service is called, and none that is given elsewhere is lost by it."""
    links = {name.format(service): value for name, value in SERVICE_LINKS.items()}
    assert load(links) == load({})
    assert load(links, toml("port = 9000")).port == 9000
    assert load_some(links, None, ("port",)) == {"port": 8080}


# Some settings alone.


def test_some_settings_alone_are_read_whatever_is_wrong_with_the_others(toml: Any) -> None:
    """A client's command is not stopped by a mistake in what only the gateway needs."""
    path = toml('port = 9000\npoll_min_s = "soon"\nupstream_api_kee = "x"\n[upstreams.X]\n[clients.a]\n')
    environ = {"GATEWAY_UPSTREAM_RATE": "fast", "GATEWAY_TOKN": "x", "GATEWAY_HOST": "0.0.0.0"}
    assert load_some(environ, path, ("host", "port", "url")) == {"host": "0.0.0.0", "port": 9000, "url": None}


def test_a_mistake_in_what_is_needed_is_told(toml: Any) -> None:
    """Named as ever."""
    with pytest.raises(ConfigError, match=r"^GATEWAY_URL: got 'here'; write an http or https URL, such as http://127"):
        load_some({"GATEWAY_URL": "here"}, None, ("url",))


def test_the_file_is_not_read_where_the_environment_says_all(tmp_path: Path) -> None:
    """The gateway's own file may be for its user's eyes only."""
    environ = {"GATEWAY_CONFIG": str(tmp_path / "absent.toml"), "GATEWAY_URL": "http://gateway:8080/"}
    assert load_some(environ, None, ("url",)) == {"url": "http://gateway:8080"}
    with pytest.raises(ConfigError, match="absent"):
        load_some(environ, None, ("token",))


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("prot", "did you mean port?"),
        ("GATEWAY_PORT", "did you mean port?"),
        ("token_file", "a secret's file is named by the variable GATEWAY_TOKEN_FILE"),
        ("frobnicate", "remove it"),
    ],
)
def test_unknown_key(toml: Any, key: str, advice: str) -> None:
    """A key of the file that is no setting is refused with the likely one, and its value is not shown."""
    path = toml(f'{key} = "{SECRET}"')
    assert problem({}, path) == f"{key} in {path}: no such setting; {advice}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.internal", "127.1.example"])
def test_other_hosts_need_a_token(host: str) -> None:
    """Without a token it listens on loopback only, and says what to set; with one it listens anywhere."""
    line = problem({"GATEWAY_HOST": host})
    assert line.startswith(f"GATEWAY_HOST: got '{host}' and no token")
    assert line.endswith("set GATEWAY_TOKEN or listen on 127.0.0.1")
    assert load({"GATEWAY_HOST": host, "GATEWAY_TOKEN": "t"}).host == host


def test_unusable_token_is_one_mistake() -> None:
    """A token that cannot be used is not also reported as missing."""
    assert problem({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_TOKEN": "a b"}).startswith("GATEWAY_TOKEN: ")


def test_poll_bounds_the_wrong_way_round() -> None:
    """The least time between polls may equal the greatest, but not be above it."""
    line = problem({"GATEWAY_POLL_MIN_S": "5", "GATEWAY_POLL_MAX_S": "0.5"})
    assert line.startswith("GATEWAY_POLL_MIN_S, GATEWAY_POLL_MAX_S: got 5 and 0.5; ")
    assert load({"GATEWAY_POLL_MIN_S": "5", "GATEWAY_POLL_MAX_S": "5"}).poll_min_s == 5


def test_a_file_with_a_bom(tmp_path: Path) -> None:
    """Some editors begin a file with one."""
    path = tmp_path / "gateway.toml"
    path.write_text("port = 81\n", "utf-8-sig")
    assert load({}, path).port == 81


@pytest.mark.parametrize("content", [b"port = \n", b'port = "\xff"', b"port = 1\nport = 2"])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    """A file that is no TOML is one mistake; what it might have set is not guessed at."""
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    report = problems({"GATEWAY_DRAIN_S": "x", "GATEWAY_HOST": "0.0.0.0"}, path)
    assert len(report) == 2
    assert str(path) in report[0]
    assert report[1].startswith("GATEWAY_DRAIN_S: ")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be read is named by whoever named it, with the system's reason."""
    path = tmp_path / "absent.toml"
    assert problem({}, path).startswith(f"--config: got '{path}'; No such file or directory, write ")
    assert problem({"GATEWAY_CONFIG": str(path)}).startswith(f"GATEWAY_CONFIG: got '{path}'; No such file")
    assert "Is a directory" in problem({}, tmp_path)


def test_secret_given_twice(tmp_path: Path) -> None:
    """A secret and its file together are a mistake: nobody could tell which one counts."""
    line = problem({"GATEWAY_TOKEN": SECRET, "GATEWAY_TOKEN_FILE": str(tmp_path / "token")})
    assert line == "GATEWAY_TOKEN, GATEWAY_TOKEN_FILE: got both; unset one of them"


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b" \n", "is empty"), (b"\xff", "not a text file")]
)
def test_unusable_secret_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A secret's file that is absent, empty or no text is a mistake, not an unset secret."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    line = problem({"GATEWAY_TOKEN_FILE": str(path), "GATEWAY_HOST": "0.0.0.0"})
    assert line.startswith(f"GATEWAY_TOKEN_FILE: got '{path}'; ")
    assert reason in line


@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_TOKEN": f"{SECRET} x"},
        {"GATEWAY_TOKEN_FILE": SECRET},
        {"GATEWAY_UPSTREAM_API_KEY": f"{SECRET}\n{SECRET}"},
        {"GATEWAY_UPSTREAM_URL": f"https://user:{SECRET}@host"},
        {"GATEWAY_UPSTREAM_URL": f"ftp://host/?key={SECRET}"},
        {"GATEWAY_DATABASE_URL": f"postgresql://user:{SECRET}@host/"},
        {"GATEWAY_DATABASE_URL": f"mysql://user:{SECRET}/@host/db"},
        {"GATEWAY_DATABASE_URL": f"postgresql://user:{SECRET}@host"},
        {"GATEWAY_DATABASE_URL": f"postgresql://user:{SECRET}"},
        {"GATEWAY_DATABASE_URL": f"postgresql://user@host/db?pasword={SECRET}"},
        {"GATEWAY_DATABASE_URL": f"postgresql+asyncpg://user:{SECRET}@host/db"},
        {"GATEWAY_DATABASE_URL": f"postgresql://user:{SECRET}@host/db", "GATEWAY_DATABASE_PASSWORD": SECRET},
    ],
)
def test_no_secret_in_the_report(environ: Mapping[str, str]) -> None:
    """The report shows no secret: not a wrong one, not one in the wrong variable, not a password in a URL."""
    assert SECRET not in problem(environ)


def test_no_secret_of_the_file_in_the_report(toml: Any) -> None:
    """The same holds for secrets that stand in the file."""
    assert SECRET not in problem({}, toml(f'token = ["{SECRET}"]'))


def test_long_values_are_cut() -> None:
    """A report line does not repeat endless input."""
    assert len(problem({"GATEWAY_PORT": "9" * 10_000})) < 200


# Checks handed in.


def test_validators_see_parsed_values() -> None:
    """A check handed in gets the parsed value, and is spared an absent one."""
    seen: list[object] = []
    environ = {"GATEWAY_WEBHOOK_SECRET": "whsec_a whsec_b"}
    validators = {"webhook_secret": seen.append, "token": seen.append, "callback_allow": seen.append}
    load(environ, None, validators)
    assert seen == [("whsec_a", "whsec_b"), ()]


def test_validators_join_the_report() -> None:
    """What a check handed in refuses is reported as the table's own mistakes are."""

    def refuse(_: object) -> None:
        raise ValueError("write host, host:port or CIDR")

    line = problem({"GATEWAY_CALLBACK_ALLOW": "10.0.0.0/99"}, callback_allow=refuse)
    assert line == "GATEWAY_CALLBACK_ALLOW: got '10.0.0.0/99'; write host, host:port or CIDR"


def test_validator_for_no_setting() -> None:
    """A check under a name that is no setting would silently check nothing: it is refused."""
    with pytest.raises(LookupError, match="webhook_secrets"):
        load({}, None, {"webhook_secrets": print})


# One table behind all documentation.


def test_table_and_settings_agree() -> None:
    """The table has one row for each field of Settings, in the same order; what follows is no setting."""
    assert (
        *(row.key for row in SETTINGS),
        "upstreams",
        "clients",
        "receivers",
        "webhook_secret_from",
        "secret_files",
    ) == Settings.__struct_fields__


def test_the_shipped_file_is_made_of_the_declarations() -> None:
    """config/gateway.toml is what `gateway config-example` prints, with each setting's sentence right above its key."""
    text = (ROOT / "config" / "gateway.toml").read_text("utf-8")
    assert text == example(), "run: gateway config-example > config/gateway.toml"
    documented = re.findall(r"^# (.+)\n# ([a-z_]+) = ", text, re.MULTILINE)
    assert documented == [(row.doc, row.key) for row in SETTINGS]
    secrets = [row.key for row in SETTINGS if row.secret]
    assert f"({', '.join(secrets)})" in text.partition("# ---")[0].replace("\n# ", " ")


def test_shipped_file_holds_the_defaults(tmp_path: Path) -> None:
    """Using config/gateway.toml changes nothing, and neither does uncommenting all of it."""
    shipped = ROOT / "config" / "gateway.toml"
    text = shipped.read_text("utf-8")
    assert tomllib.loads(text) == {}
    uncommented = tmp_path / "gateway.toml"
    uncommented.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE), "utf-8")
    assert list(tomllib.loads(uncommented.read_text("utf-8"))) == [row.key for row in SETTINGS]
    assert load({}, shipped) == load({})
    changed = {"upstream_url": None, "upstream_rate": None}  # given they are what the profile says, as seen below
    assert msgspec.structs.replace(load({}, uncommented), **changed) == load({})


def test_shipped_file_names_commands_that_there_are() -> None:
    """Options and all, as they stand in its head."""
    commands = re.findall(r"`gateway (.+?)`", (ROOT / "config" / "gateway.toml").read_text("utf-8"))
    assert "--config FILE serve" in commands
    assert [cli.main([*words.split(), "--help"], standalone_mode=False) for words in commands] == [0] * len(commands)


UPSTREAMS = """
[upstreams.runway]
api_key = "sk-canary"
rate = ["2/1", "100/60"]

[upstreams.second-key]
profile = "kie"
url = "http://127.0.0.1:9/"
create_rate = "20/10"
"""


def test_more_upstreams_stand_in_the_file(tmp_path: Path) -> None:
    """Each table [upstreams.NAME] is one more upstream; what it leaves out is its profile's."""
    path = tmp_path / "gateway.toml"
    path.write_text(UPSTREAMS)
    settings = load({}, path)
    default, runway, second = settings.upstreams
    assert (default.name, default.default, runway.default) == ("aigptimage", True, False)
    assert (runway.name, runway.profile.name, runway.api_key) == ("runway", "runway", "sk-canary")
    assert runway.url == runway.profile.base_url
    assert runway.rate == (RateWindow(2, 1.0), RateWindow(100, 60.0))
    assert (second.profile.name, second.url, second.api_key) == ("kie", "http://127.0.0.1:9", None)
    assert second.create_rate == (RateWindow(20, 10.0),)
    assert "canary" not in repr(settings)


def test_an_upstreams_key_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    """api_key_file names it."""
    (tmp_path / "key").write_text("sk-from-file\n")
    path = tmp_path / "gateway.toml"
    path.write_text(f'[upstreams.kie]\napi_key_file = "{tmp_path / "key"}"\n')
    assert load({}, path).upstreams[1].api_key == "sk-from-file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstreams = 1", "write a table for each upstream"),
        ("[upstreams]\nrunway = 1", "write a table for each upstream"),
        ("[upstreams.Runway]", "small letters"),
        ("[upstreams.kie]\napi_kee = 1", "did you mean api_key"),
        ("[upstreams.kie]\nrate = 'fast'", "requests/seconds windows"),
        ("[upstreams.kie]\nurl = 'ftp://x'", "http or https URL"),
        ("[upstreams.kie]\napi_key = 'sk canary'", "visible ASCII"),
        ("[upstreams.kie]\napi_key = 'a'\napi_key_file = '/b'", "both api_key and api_key_file"),
        ("[upstreams.kie]\napi_key_file = '/nowhere/key'", "api_key_file"),
    ],
)
def test_mistakes_in_more_upstreams(tmp_path: Path, text: str, expected: str) -> None:
    """Each is named with its table, and no key is shown."""
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load({}, path)
    assert "canary" not in str(caught.value)


def test_config_dir_of_the_checkout() -> None:
    """In a checkout the shipped configuration is the folder config."""
    assert config_dir() == ROOT / "config"


@pytest.mark.parametrize("path", [README, *sorted(MANUAL.glob("*.md"))], ids=lambda path: path.name)
def test_no_other_variable_is_documented(path: Path) -> None:
    """README and the manual name no GATEWAY_ variable that the gateway would refuse."""
    known = {row.env for row in SETTINGS} | {f"{row.env}_FILE" for row in SETTINGS if row.secret} | {"GATEWAY_CONFIG"}
    known |= {f"{row.env}_DEFAULT" for row in SETTINGS if row.default}
    assert set(re.findall(r"\bGATEWAY_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8"))) <= known
