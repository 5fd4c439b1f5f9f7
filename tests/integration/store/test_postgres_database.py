"""PostgreSQL's connections: transactions and reads, what goes wrong with them, and how they come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreError, StoreUnsure, StoreUnusable
from gateway.store.engine import Blame, Result, Rows, Run, Work, Write
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.errors import blame
from gateway.store.postgres.url import Servers
from tests.life import until
from tests.postgres import LOCKED, PASSWORD, Database, Server

PUT = "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
GET = "SELECT key, value FROM meta WHERE key = $1"


def put(key: str, value: bytes = b"1") -> Work[Result]:
    return (yield Run(PUT, {"key": key, "value": value, "unused": None}))


def several(*steps: Any) -> Work[list[Result]]:
    results = []
    for step in steps:
        results.append((yield step))  # noqa: PERF401 - a comprehension cannot yield
    return results


@asynccontextmanager
async def opened(url: str, password: str | None = None, **options: Any) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(Servers(url, password), patience_s=options.pop("patience_s", 0.0), **options)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(postgres: Database) -> AsyncIterator[PostgresDatabase]:
    async with opened(postgres.url) as database:
        yield database


async def test_a_transaction_takes_steps(database: PostgresDatabase) -> None:
    """Each step gets its rows, as tuples, and how many it changed; the end, what the work returned."""
    rows = Rows(
        "INSERT INTO meta (key, value) SELECT * FROM unnest($1::text[], $2::bytea[]) RETURNING key",
        [("a", b"1"), ("b", b"2")],
    )
    delete = Run("DELETE FROM meta WHERE key = $1", ("b",))
    nothing = Rows("DELETE FROM meta WHERE key = ANY ($1::text[])", [])
    (inserted, read, none, deleted), wrote = await database.transaction(
        lambda: several(rows, Run(GET, ("a",)), nothing, delete)
    )
    assert (inserted.rows, inserted.count) == ([("a",), ("b",)], 2)
    assert (read.rows, read.count) == ([("a", b"1")], 0)
    assert (none.rows, none.count, deleted.count, wrote) == ([], 0, 1, True)
    assert type(read.rows[0]) is tuple
    assert await database.transaction(lambda: several(Run(GET, ("b",)))) == ([Result([], 0)], False)


async def test_statements_are_prepared_once(database: PostgresDatabase) -> None:
    """A connection parses and plans a statement the first time alone: that takes longer than to run it."""
    prepared = "SELECT CAST(generic_plans AS int) FROM pg_prepared_statements WHERE statement = $1"
    session = await database.dedicated()
    try:
        for _ in range(3):
            await session.read(GET, ("a",))
        await session.raw.execute("SET plan_cache_mode = force_generic_plan")
        await session.read(GET, ("a",))
        assert await session.read(prepared, (GET,)) == [(1,)]
    finally:
        session.drop()


@pytest.mark.parametrize(
    "change", ["DEALLOCATE ALL", "ALTER TABLE changing ALTER COLUMN value TYPE text"], ids=["gone", "other columns"]
)
async def test_a_prepared_statement_that_does_not_serve_any_more(
    database: PostgresDatabase, postgres: Database, change: str
) -> None:
    """It is prepared anew, where somebody's migration has changed what it returns, say."""
    postgres.execute(
        "CREATE TABLE changing (value int); INSERT INTO changing VALUES (7); GRANT ALL ON changing TO PUBLIC"
    )
    read = "SELECT value FROM changing"
    assert await database.read(read) == [(7,)]
    if change == "DEALLOCATE ALL":
        await database.read(change)
    else:
        postgres.execute(change)
    assert [str(value) for (value,) in await database.read(read)] == ["7"]
    assert database.failing is None


async def test_large_values(database: PostgresDatabase) -> None:
    """A value that was left empty is filled once, in parts, and read whole."""
    task = (
        "INSERT INTO tasks (created_at, settled_at, upstream, task_id, state, watchers, outcome) "
        "VALUES (1, 1, 'up', 't', 'success', 'ann', '') RETURNING seq"
    )
    ((inserted,), _) = await database.transaction(lambda: several(Run(task)))
    ((seq,),) = inserted.rows
    for parts in ([b"x" * 5_000_000, b"y"], [b"never"]):
        await database.transaction(lambda parts=parts: several(Write(seq, "outcome", parts)))  # type: ignore[misc]
    assert await database.large(seq, "outcome") == b"x" * 5_000_000 + b"y"
    assert await database.large(seq, "record") is None
    assert await database.large(seq + 1, "outcome") is None


@pytest.mark.parametrize(
    ("statement", "parameters", "whose"),
    [
        ("INSERT INTO meta (key, value) VALUES ($1, $2)", ("x", None), Blame.VALUES),
        ("INSERT INTO meta (key, value) VALUES ($1, $2)", ("a\0b", b""), Blame.VALUES),
        ("INSERT INTO meta (key, value) VALUES ($1, $2)", ("\ud800", b""), Blame.VALUES),
        ("INSERT INTO meta (key, value) VALUES ($1, $2)", (7, b""), Blame.VALUES),
        ("SELECT 1 / $1::int", (0,), Blame.VALUES),
        ("SELECT $1::bigint", (2**63,), Blame.VALUES),
        (
            "INSERT INTO meta SELECT $1 || string_agg(md5(n::text), ''), '' FROM generate_series(1, 500) n",
            ("x",),
            Blame.VALUES,
        ),
        ("SELECT nonsense", (), Blame.DEFECT),
        ("SELECT FROM nowhere", (), Blame.DEFECT),
        ("SELECT $1::int", (), Blame.DEFECT),
    ],
)
async def test_whose_fault(database: PostgresDatabase, statement: str, parameters: Sequence[Any], whose: Blame) -> None:
    """What a write's own values bring about, or a wrong statement, undoes it and says nothing of the database."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, blame knows it
        await database.transaction(lambda: several(Run(PUT, {"key": "k", "value": b""}), Run(statement, parameters)))
    assert blame(caught.value) is whose
    assert database.failing is None
    assert await database.read(GET, ("k",)) == []


async def test_work_that_raises_is_undone(database: PostgresDatabase) -> None:
    """A defect in the work itself leaves nothing behind, and the connection usable."""

    def work() -> Work[None]:
        yield Run(PUT, {"key": "k", "value": b""})
        raise LookupError

    with pytest.raises(LookupError) as caught:
        await database.transaction(work)
    assert blame(caught.value) is Blame.DEFECT
    assert await database.read(GET, ("k",)) == []
    assert (await database.transaction(lambda: put("k")))[1]


async def test_a_deadlock_is_tried_again(database: PostgresDatabase, postgres: Database) -> None:
    """Who is undone so that the others can go on does it all anew, without a word."""
    await database.transaction(
        lambda: several(Run(PUT, {"key": "a", "value": b"0"}), Run(PUT, {"key": "b", "value": b"0"}))
    )
    tries = 0

    def work(first: str, then: str) -> Work[None]:
        nonlocal tries
        tries += 1
        yield Run(PUT, {"key": first, "value": b"1"})
        yield Run("SELECT pg_sleep(0.2)")  # until the other has its first, too
        yield Run(PUT, {"key": then, "value": b"1"})

    async with opened(postgres.url) as other:
        await asyncio.gather(database.transaction(lambda: work("a", "b")), other.transaction(lambda: work("b", "a")))
    assert tries > 2
    assert database.failing is None


async def test_a_cancelled_read_leaves_no_trace(database: PostgresDatabase) -> None:
    """The next one gets its own answer."""
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(TimeoutError))
        async with asyncio.timeout(0.1):
            await database.read("SELECT pg_sleep(4)")
    assert await database.read("SELECT 7") == [(7,)]
    assert database.failing is None


async def test_more_readers_than_connections(database: PostgresDatabase) -> None:
    """They take turns."""
    answers = await asyncio.gather(*(database.read("SELECT :n::int FROM pg_sleep(0.01)", {"n": n}) for n in range(20)))
    assert answers == [[(n,)] for n in range(20)]


async def test_closed(postgres: Database) -> None:
    """Before the opening and after the end nothing is asked; closing waits for nobody."""
    database = PostgresDatabase(Servers(postgres.url))
    with pytest.raises(StoreError, match="closed"):
        await database.read("SELECT 1")
    opening = asyncio.ensure_future(database.open())
    while not opening.done():
        with contextlib.suppress(StoreError):  # not that there is no such table
            await database.read(GET, ("k",))
        await asyncio.sleep(0)
    assert database.failing is None
    slow = asyncio.ensure_future(database.read("SELECT pg_sleep(4)"))
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
    await until(lambda: postgres.execute(running) != "0")
    await database.close()
    with pytest.raises(StoreError):
        await slow
    with pytest.raises(StoreError, match="closed"):
        await database.transaction(lambda: put("k"))


@pytest.mark.parametrize(
    ("user", "password", "database", "words"),
    [
        (LOCKED, "wrong", "gateway", "the password is wrong: see GATEWAY_DATABASE_PASSWORD"),
        (LOCKED, None, "gateway", "the password is wrong"),
        ("nobody", None, "gateway", "does not let the gateway in"),
        ("gateway", None, "none", "there is no such database: CREATE DATABASE makes it"),
    ],
)
async def test_who_is_not_let_in(
    postgres: Database, user: str, password: str | None, database: str, words: str
) -> None:
    """The start fails at once, and says what to do; no password is shown."""
    assert postgres.server is not None
    with pytest.raises(StoreUnusable, match=words) as caught:
        async with opened(postgres.server.url(database, user), password, patience_s=60):
            pass
    assert "wrong)" not in caught.value.message
    assert caught.value.reason == "refused"


async def test_a_password(postgres: Database) -> None:
    """It is taken from the settings or the URL, whatever is in it, and shown nowhere."""
    assert postgres.server is not None
    postgres.execute(f"GRANT ALL ON SCHEMA public TO {LOCKED}")
    servers = Servers(postgres.server.url(user=LOCKED), PASSWORD)
    with capture_logs() as log:
        async with opened(postgres.server.url(user=LOCKED), PASSWORD) as database:
            assert await database.read("SELECT current_user::text") == [(LOCKED,)]
    assert PASSWORD not in f"{log} {servers!r} {servers} {vars(servers)['_url']!r}"


async def test_no_rights(postgres: Database) -> None:
    """A user that may make no tables is told which right is missing."""
    assert postgres.server is not None
    postgres.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO postgres")
    with pytest.raises(StoreUnusable, match=r"a right is missing|no schema of its search_path"):
        async with opened(postgres.url):
            pass


async def test_a_file_that_is_not_there(postgres: Database) -> None:
    """A certificate or a passfile that the URL names is looked at before anything is tried."""
    with pytest.raises(StoreUnusable, match=r"GATEWAY_DATABASE_URL: passfile=/none/such: No such file"):
        async with opened(f"{postgres.url}?passfile=/none/such"):
            pass


async def test_the_server_restarts(postgres_server: Server) -> None:
    """Meanwhile everything fails at once, and says why; after it all is well by itself."""
    async with opened(postgres_server.url()) as database:
        await database.transaction(lambda: put("k"))
        postgres_server.stop()
        for _ in range(3):
            with pytest.raises(StoreError) as caught:
                await database.transaction(lambda: put("k", b"2"))
            assert caught.value.reason in ("unreachable", "restarting")
        with pytest.raises(StoreError):
            database.require()
        assert database.lost == "the database cannot be reached"
        with pytest.raises(StoreError, match="cannot be reached"):
            await database.read("SELECT 1")
        postgres_server.start()
        await _back(database)
        assert (database.failing, database.lost) == (None, None)
        database.require()
        assert await database.read(GET, ("k",)) == [("k", b"3")]


async def test_killed_while_idle(postgres_server: Server) -> None:
    """Connections that have gone unnoticed cost the next request nothing but a new one."""
    async with opened(postgres_server.url()) as database:
        await database.transaction(lambda: put("k"))
        await database.read("SELECT 1")
        postgres_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
        assert await database.read("SELECT 1") == [(1,)]
        assert (await database.transaction(lambda: put("k")))[1]
        assert database.failing is None


async def test_ended_within_a_transaction(database: PostgresDatabase, postgres: Database) -> None:
    """Nothing of it was done, so it is done anew."""
    tries = 0

    def work() -> Work[None]:
        nonlocal tries
        tries += 1
        yield Run(PUT, {"key": str(tries), "value": b""})
        if tries == 1:
            postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        yield Run("SELECT 1")

    await database.transaction(work)
    assert (await database.read(GET, ("1",)), await database.read("SELECT count(*) FROM meta WHERE key = '2'")) == (
        [],
        [(1,)],
    )


async def _back(database: PostgresDatabase) -> None:
    while True:
        try:
            await database.transaction(lambda: put("k", b"3"))
        except StoreError:
            await asyncio.sleep(0.01)  # at most for the test's time limit
        else:
            break
    await database.read("SELECT 1")


async def test_read_only(database: PostgresDatabase, postgres: Database) -> None:
    """A database that takes no writes is read all the same, and told of as what it is."""
    postgres.execute(f"ALTER DATABASE {postgres.name} SET default_transaction_read_only = on")
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
    with pytest.raises(StoreError) as caught:
        await database.transaction(lambda: put("k"))
    assert caught.value.reason == "read_only"
    assert "Look at default_transaction_read_only" in caught.value.message
    assert database.lost == "the database takes no writes"
    assert await database.read("SELECT 1") == [(1,)]
    postgres.execute(f"SET default_transaction_read_only = off; ALTER DATABASE {postgres.name} RESET ALL")
    await _back(database)
    assert database.lost is None


async def test_a_lock_that_somebody_holds(postgres: Database) -> None:
    """Nobody waits for it for longer than the limit, and nothing is done; the next write is free to try."""
    async with opened(postgres.url, settings={"lock_timeout": "300ms"}) as database:
        other = await asyncpg.connect(postgres.url)
        await other.execute("BEGIN; LOCK TABLE meta")
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreError, match="somebody else holds a lock") as caught:
            await database.transaction(lambda: put("k"))
        assert caught.value.reason == "slow"
        assert 0.2 < asyncio.get_running_loop().time() - began < 3
        database.require()
        await other.close()
        await _back(database)


async def test_a_statement_that_takes_too_long(postgres: Database) -> None:
    """The server ends it."""
    async with opened(postgres.url, settings={"statement_timeout": "100ms"}) as database:
        with pytest.raises(StoreError, match="a statement took too long") as caught:
            await database.read("SELECT pg_sleep(4)")
        assert caught.value.reason == "slow"
        assert await database.read("SELECT 1") == [(1,)]


async def test_no_connection_left(postgres_server: Server) -> None:
    """A server that is full is no mistake in the settings: it is waited for."""
    postgres_server.stop()
    postgres_server.start(max_connections="4", superuser_reserved_connections="3")
    others = await asyncpg.connect(postgres_server.url())
    database = PostgresDatabase(Servers(postgres_server.url()), patience_s=30)
    with capture_logs() as log:
        opening = asyncio.ensure_future(database.open())
        await until(lambda: any("no connection left" in line.get("error", "") for line in log))
        await others.close()
        await opening
    await database.close()


async def test_a_standby_that_does_not_confirm(postgres_server: Server) -> None:
    """A commit that only the primary has is no success, though the server says COMMIT to who is not to wait longer."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with opened(postgres_server.url()) as database:
        postgres_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'none_such'")
        postgres_server.execute("SELECT pg_reload_conf()")
        await until(lambda: postgres_server.execute("SHOW synchronous_standby_names") != "")
        writing = asyncio.ensure_future(database.transaction(lambda: put("k")))
        await until(lambda: postgres_server.execute(f"SELECT count(*) {waiting}") == "1")
        postgres_server.execute(f"SELECT pg_cancel_backend(pid) {waiting}")
        with pytest.raises(StoreUnsure, match="standby does not confirm") as caught:
            await writing
        assert caught.value.reason == "slow"


async def test_a_commit_whose_answer_is_lost(postgres_server: Server) -> None:
    """Nobody knows whether it was done: it is not done again, and the error says so."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with opened(postgres_server.url()) as database:
        postgres_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'none_such'")
        postgres_server.execute("SELECT pg_reload_conf()")
        await until(lambda: postgres_server.execute("SHOW synchronous_standby_names") != "")
        writing = asyncio.ensure_future(database.transaction(lambda: put("k")))
        await until(lambda: postgres_server.execute(f"SELECT count(*) {waiting}") == "1")
        postgres_server.kill()
        with pytest.raises(StoreUnsure, match="Nobody knows whether what was to be stored is"):
            await writing


async def test_the_limits_of_a_session(database: PostgresDatabase) -> None:
    """Statements, locks and standing still are limited; commits are durable, whatever the database's default."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    ((*values,),) = await database.read(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}")
    assert values == ["5s", "2s", "5s", "on"]


async def test_commits_are_durable_by_force(postgres: Database) -> None:
    """synchronous_commit = off as a default is overruled; remote_apply, which is more, is left as it is."""
    for default, effective in (("off", "on"), ("remote_apply", "remote_apply")):
        postgres.execute(f"ALTER DATABASE {postgres.name} SET synchronous_commit = {default}")
        async with opened(postgres.url) as database:
            assert await database.read("SHOW synchronous_commit") == [(effective,)]


async def test_a_write_by_itself(database: PostgresDatabase, postgres: Database) -> None:
    """One statement, one journey; where it may not write the next one will not either, and readers are well."""
    assert await database.write("INSERT INTO meta (key, value) VALUES ($1, '') RETURNING key", ("k",)) == [("k",)]
    postgres.execute(f"ALTER DATABASE {postgres.name} SET default_transaction_read_only = on")
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
    with pytest.raises(StoreError) as caught:
        await database.write("DELETE FROM meta WHERE key = 'k'")
    assert caught.value.reason == "read_only"
    assert await database.read("SELECT count(*) FROM meta WHERE key = 'k'") == [(1,)]
    assert database.lost == "the database takes no writes"


async def test_claims_do_not_wait_for_writes(database: PostgresDatabase, postgres: Database) -> None:
    """They have a connection of their own: a write that waits for somebody's lock holds up no claim."""
    other = await asyncpg.connect(postgres.url)
    await other.execute("BEGIN; LOCK TABLE meta")
    writing = asyncio.ensure_future(database.transaction(lambda: put("k")))
    await until(lambda: postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "1")
    assert await database.write("SELECT 7") == [(7,)]
    assert not writing.done()
    await other.close()
    await writing


async def test_leads_do_not_wait_for_claims(database: PostgresDatabase, postgres: Database) -> None:
    """Else one slow claim after another would end them: a lease is renewed within seconds."""
    claiming = asyncio.ensure_future(database.write("SELECT pg_sleep(4)"))
    running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    await until(lambda: postgres.execute(running) == "1")
    assert await database.write("SELECT 7", lead=True) == [(7,)]
    assert not claiming.done()
    claiming.cancel()


async def test_a_server_that_answers_nothing_more(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen, or cut off without a word: it is told after a while, from then on at once; all is well once it thaws."""
    monkeypatch.setattr("gateway.store.postgres.session.COMMAND_LIMIT_S", 0.3)
    monkeypatch.setattr("gateway.store.postgres.session._CONNECT_LIMIT_S", 0.3)
    async with opened(postgres_server.url()) as database:
        await database.transaction(lambda: put("k"))
        postgres_server.freeze()
        with pytest.raises(StoreError) as caught:
            await database.transaction(lambda: put("k", b"2"))
        assert caught.value.reason == "slow"
        with pytest.raises(StoreError) as caught:
            await database.transaction(lambda: put("k", b"2"))
        assert caught.value.reason == "unreachable"
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreError, match="cannot be reached"):
            await database.read("SELECT 1")
        assert asyncio.get_running_loop().time() - began < 0.2
        postgres_server.thaw()
        await _back(database)
        assert database.failing is None


async def test_a_process_that_stood_still(postgres: Database) -> None:
    """What it held within a transaction is let go meanwhile; it does that anew when it goes on."""
    async with opened(postgres.url, settings={"idle_in_transaction_session_timeout": "50ms"}) as database:
        tries = 0

        def work() -> Work[None]:
            nonlocal tries
            tries += 1
            yield Run(PUT, {"key": str(tries), "value": b""})
            if tries == 1:  # the whole process stands still until the server has ended its transaction
                postgres.execute(
                    "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle in transaction') "
                    "LOOP PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01); END LOOP; END $$"
                )
            yield Run("SELECT 1")

        await database.transaction(work)
        assert (await database.read(GET, ("1",)), tries) == ([], 2)


@pytest.mark.parametrize(("state", "reason"), [("53100", "full"), ("53200", "refused"), ("XX001", None)])
async def test_no_room_on_the_disk(database: PostgresDatabase, postgres: Database, state: str, reason: str) -> None:
    """Nothing is stored, and it is told as what it is, until there is room again."""
    postgres.execute(
        f"CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '{state}'; END $$;"
        "CREATE TRIGGER fails BEFORE INSERT ON meta EXECUTE FUNCTION fails()"
    )
    with pytest.raises(StoreError) as caught:
        await database.transaction(lambda: put("k"))
    assert caught.value.reason == reason
    with pytest.raises(StoreError):
        database.require()
    postgres.execute("DROP TRIGGER fails ON meta")
    await _back(database)
    assert database.lost is None
