"""Every kind of mistake in the settings: all in one report, each by its name, with what to write instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.config.settings import SETTINGS
from gateway.core.errors import SecretError
from tests.configuring import SECRET, problem, problems


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
