"""Settings: where they come from, how their values are read, and which secrets may be seen."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.egressproxy import parse_proxy
from gateway.config.load import load, load_some
from gateway.config.profilefile import config_dir
from gateway.config.settings import SETTINGS, Settings, database_path
from gateway.core.errors import ConfigError
from gateway.core.ratelimit import RateWindow
from tests.configuring import SECRET, problem
from tests.manual import ROOT

PROXY = f"http://user:{SECRET}@proxy.internal:3128"


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


def test_a_file_with_a_bom(tmp_path: Path) -> None:
    """Some editors begin a file with one."""
    path = tmp_path / "gateway.toml"
    path.write_text("port = 81\n", "utf-8-sig")
    assert load({}, path).port == 81


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


def test_config_dir_of_the_checkout() -> None:
    """In a checkout the shipped configuration is the folder config."""
    assert config_dir() == ROOT / "config"
