"""PostgreSQL's URL: several servers, libpq's options, and what is said of a mistaken one."""

import pytest

from gateway.config.databaseurl import PostgresUrl, parse_postgres
from gateway.config.load import load
from gateway.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "hosts", "database", "user", "password"),
    [
        ("postgresql://ann@db/gateway", [("db", 5432)], "gateway", "ann", None),
        ("postgres://db/gateway", [("db", 5432)], "gateway", None, None),
        ("postgresql://ann:s%2Fe%40cret@db:6432/x", [("db", 6432)], "x", "ann", "s/e@cret"),
        ("postgresql://ann:a@b:c@db/x", [("db", 5432)], "x", "ann", "a@b:c"),
        (
            "postgresql://db1:1,db2:2,[::1]:3,db4/x",
            [("db1", 1), ("db2", 2), ("::1", 3), ("db4", 5432)],
            "x",
            None,
            None,
        ),
        ("postgresql:///x?host=/run/postgresql", [("/run/postgresql", 5432)], "x", None, None),
        ("postgresql://%2Frun%2Fpg/x?port=6000", [("/run/pg", 6000)], "x", None, None),
        ("postgresql://?host=a,b&port=1,2&dbname=x&user=u&password=p", [("a", 1), ("b", 2)], "x", "u", "p"),
        ("postgresql://a,b/x?port=7", [("a", 7), ("b", 7)], "x", None, None),
        ("postgresql://db/f%C3%BC%C3%9Fe", [("db", 5432)], "füße", None, None),
    ],
)
def test_where_and_who(
    text: str, hosts: list[tuple[str, int]], database: str, user: str | None, password: str | None
) -> None:
    """Hosts, ports, user, password and database stand where libpq looks for them."""
    url = parse_postgres(text)
    assert (list(url.hosts), url.database, url.user, url.password) == (hosts, database, user, password)


def test_which_of_several_servers() -> None:
    """Of several the one that can be written is asked, unless the URL says which; one by itself is asked as it is."""
    assert parse_postgres("postgresql://a,b/x").target == "read-write"
    assert parse_postgres("postgresql://a/x").target == "any"
    assert parse_postgres("postgresql://a,b/x?target_session_attrs=primary").target == "primary"


def test_the_files_that_it_names() -> None:
    """Files are told apart from what the system brings."""
    url = parse_postgres("postgresql://a/x?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k&passfile=/p")
    assert url.files == {"sslrootcert": "/ca.pem", "sslcert": "/c", "sslkey": "/k", "passfile": "/p"}
    assert url.tls.keys() == {"sslmode", "sslrootcert", "sslcert", "sslkey"}
    assert parse_postgres("postgresql://a/x?sslmode=verify-full&sslrootcert=system").files == {}


def test_it_shows_where_and_no_password() -> None:
    """What is logged or raised by way of it has no password."""
    url = parse_postgres("postgresql://ann:secret@a,[::1]:7/x?host=/run/pg&sslmode=require")
    assert str(url) == "/run/pg/.s.PGSQL.5432, database x"
    assert str(parse_postgres("postgresql://ann:secret@a,[::1]:7/x")) == "a:5432, [::1]:7, database x"
    assert "secret" not in f"{url!r} {url}"
    assert isinstance(url, PostgresUrl)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("postgresql://host", "name the database, as in postgresql://user@host/database"),
        ("postgresql://host/", "name the database"),
        ("postgresql+asyncpg://host/x", "write postgresql://user@host/database"),
        ("postgresql://ann:pa#ss@host/x", "write / ? # @ and : in a password as %2F"),
        ("postgresql://ann:pa/ss@host/x", "write / ? # @ and : in a password as %2F"),
        ("postgresql:///x", "or ?host=/folder of a socket"),
        ("postgresql://a,,b/x", "write hosts as host"),
        ("postgresql://::1/x", "write hosts as host"),
        ("postgresql://a:0/x", "write ports from 1 to 65535"),
        ("postgresql://a:99999/x", "write ports from 1 to 65535"),
        ("postgresql://a/x?port=b", "write ports from 1 to 65535"),
        ("postgresql://a,b,c/x?port=1,2", "write one port for all hosts, or one for each"),
        ("postgresql://a/x?sslmod=require", "did you mean sslmode=…?"),
        ("postgresql://a/x?channel_binding=require", "an option after ? is not known; there are application_name"),
        ("postgresql://a/x?sslmode=on", "write sslmode=disable, allow, prefer, require, verify-ca or verify-full"),
        ("postgresql://a/x?sslmode=verify-full", "needs sslrootcert=/path of the authorities' certificates, or system"),
        ("postgresql://a/x?sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("postgresql://a/x?sslcert=/c", "sslcert and sslkey go together"),
        ("postgresql://a/x?passfile=pass", "write the whole path of passfile"),
        ("postgresql://a/x?target_session_attrs=standby", "write target_session_attrs=read-write, primary or any"),
        ("postgresql://a/%ff", "what stands after % is no text in UTF-8"),
        ("postgresql://a/x%00", "leave %00 out"),
    ],
)
def test_what_is_mistaken(text: str, advice: str) -> None:
    """A mistake is told of with what to write instead, at the start, and without what was written."""
    with pytest.raises(ConfigError) as caught:
        load({"GATEWAY_DATABASE_URL": text})
    (line,) = caught.value.problems
    assert line.startswith("GATEWAY_DATABASE_URL: got 'postgresql")
    assert advice in line


def test_one_password() -> None:
    """It stands in one place."""
    url = "postgresql://ann@host/x"
    settings = load({"GATEWAY_DATABASE_URL": url, "GATEWAY_DATABASE_PASSWORD": "p ä/"})
    assert (settings.database_url, settings.database_password) == (url, "p ä/")
    with pytest.raises(ConfigError, match="got two passwords; take the one in the URL out"):
        load({"GATEWAY_DATABASE_URL": "postgresql://ann:a@host/x", "GATEWAY_DATABASE_PASSWORD": "b"})
