"""Values that PostgreSQL could take for others, or read in vain: empty, odd, long and large ones."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.core.model import CallbackState
from gateway.store.copying.tables import MOST_WATCHERS
from gateway.store.postgres import createsql, deliversql, sql, watchsql
from tests.pgstatements import Session
from tests.postgres import Database

LARGE = bytes(range(256)) * 16 * 1024  # 4 MiB
ODD = [
    "",
    " ",
    "\\x41",
    'it\'s "quoted" {a,b} $1 :name',
    "Füße 🐈 \U0010ffff",
    "\u202ertl\u0301",
    "\x01\x1f\x7f",
    "NULL",
]
TOASTED = "SELECT coalesce(toast_blks_read + toast_blks_hit, 0) FROM pg_statio_user_tables WHERE relname = $1"


@pytest.fixture
async def session(postgres: Database) -> AsyncIterator[Session]:
    session = await Session.connect(postgres.url)
    await session.migrate()
    yield session
    await session.close()


async def registered(session: Session, task_id: str = "task-1", url: str = "https://example.com", **about: Any) -> int:
    """Register a callback; return its task's seq."""
    task = ("kie", task_id, 1, 2, None, about.get("client", "ann"))
    found = await session.rows(sql.INSERT_TASKS, task)
    name = f"{task_id} {url} {about}"
    callback = (name, about.get("client", "ann"), url, "https://example.com", b"{}", 60, 1, 60_001)
    await session.rows(sql.INSERT_CALLBACKS, ("kie", task_id, *callback, about.get("format", "standard"), None))
    return int((found or await session.table("SELECT 0, 0, seq FROM tasks WHERE task_id = $1", task_id))[0][2])


async def test_what_is_large_is_read_only_where_it_is_asked_for(session: Session) -> None:
    """Lists, claims and questions about a task leave outcomes and records of 4 MiB alone, and know their size."""
    seq = await registered(session)
    await registered(session, url="https://example.com/2", format="record")
    await session.rows(sql.OWE_WEBHOOKS, (seq, 2**62, 5, None, None, None, None))
    await session.rows(sql.SETTLE_TASKS, (seq, "success", b"", 5, 1, b"", b"", None))
    for column in ("outcome", "record"):
        await session.run(sql.WRITE_LARGE[column], (seq, LARGE))

    async def toasted() -> int:
        await session.run("SELECT pg_stat_force_next_flush()")
        (((tasks,),), ((callbacks,),)) = [await session.table(TOASTED, name) for name in ("tasks", "callbacks")]
        return int(tasks + callbacks)

    before = await toasted()
    about = {"client": "ann", "task_id": "task-1", "before": 2**62, "limit": 10}
    for by_task in (False, True):
        for state in (None, CallbackState.PENDING):
            assert len(await session.run(sql.select_callbacks(state=state, by_task=by_task), about)) == 2
    ((*_, outcome, size),) = await session.run(sql.SELECT_TASK, about)
    assert (outcome, size) == (None, len(LARGE))
    ((*_, record, size, _, _),) = await session.run(watchsql.SELECT_READ_TASK, ("task-1", "kie"))
    assert (record, size) == (None, len(LARGE))
    claimed = await session.claim(10)
    assert sorted(row[13] for row in claimed) == [len(LARGE)] * 2
    assert not any(row[14] or row[15] for row in claimed)
    assert await toasted() == before

    for column in ("outcome", "record"):
        assert await session.run(sql.SELECT_LARGE[column], (seq,)) == [(LARGE,)]
    assert await toasted() > before


async def test_small_ones_come_with_what_is_read(session: Session) -> None:
    """An outcome of up to 64 KiB comes with its task and its webhook."""
    small = LARGE[: 64 * 1024]
    seq = await registered(session)
    await session.rows(sql.OWE_WEBHOOKS, (seq, 2**62, 5, None, None, None, None))
    await session.rows(sql.SETTLE_TASKS, (seq, "success", small, 5, 1, None, b"", None))
    ((*_, outcome, size),) = await session.run(sql.SELECT_TASK, {"client": "ann", "task_id": "task-1"})
    assert (outcome, size) == (small, len(small))
    ((*_, size, body, outcome, _, _, _, _),) = await session.claim(10)
    assert (size, body, outcome) == (len(small), b"", small)


async def test_nothing_is_not_something_empty(session: Session) -> None:
    """An empty text or value stays one, and none stays none, also among others of one statement."""
    tasks = [await registered(session, f"task-{number}") for number in range(3)]
    await session.connection.execute("UPDATE tasks SET read_until = 9, model = NULL")
    polls = [
        (tasks[0], 3, 4, "", None, "", b"", 3, None, b""),
        (tasks[1], 3, 4, None, None, None, None, 3, None, b""),
        (tasks[2], 3, 4, "x", 1, "m", b"r", 3, None, b""),
    ]
    await session.rows(sql.RESCHEDULE_TASKS, *polls)
    found = await session.table("SELECT last_error, failures, model, record FROM tasks ORDER BY seq")
    assert found == [("", 1, "", b""), (None, 0, None, None), ("x", 1, "m", b"r")]


@pytest.mark.parametrize("text", ODD)
async def test_every_text_comes_back_as_it_was(session: Session, text: str) -> None:
    """Whatever a client, an upstream or a receiver has written."""
    seq = await registered(session, url=f"https://example.com/{text}")
    await session.rows(sql.RESCHEDULE_TASKS, (seq, 3, 4, text, None, text, None, 3, None, b""))
    assert await session.table("SELECT last_error, model FROM tasks") == [(text, text)]
    ((callback, fence),) = await session.table("SELECT seq, fence FROM callbacks WHERE url LIKE '%' || $1", text)
    await session.rows(deliversql.INSERT_ATTEMPTS, (callback, 1, 2, 3, None, text, "retry", text, fence))
    assert await session.run(sql.SELECT_ATTEMPTS, (callback, 9)) == [(1, 2, 3, None, text, "retry", text)]
    create = {"client": "ann", "upstream": "kie", "request_id": text, "digest": b"", "at": 1}
    await session.run(createsql.INSERT_CREATE, create)
    answer = {"status": 200, "content_type": text, "task_id": None, "answer": b""}
    await session.run(createsql.END_CREATE, {**create, **answer})
    assert await session.run(createsql.SELECT_CREATE, create) == [(b"", 1, None, 200, text, None, b"")]


async def test_the_longest_names_fit_into_the_indexes(session: Session) -> None:
    """A URL of 2,048 characters of four bytes, a task's id of 255, and any number of clients that watch one task."""
    urls = [f"https://example.com/{last}".ljust(2048, "🐈") for last in "ab"]
    for url in urls:
        await registered(session, "t" * 255, url)
    wanted = [("kie", "t" * 255, "ann", url, place) for place, url in enumerate(urls)]
    assert [row[3] for row in await session.rows(sql.SELECT_REGISTERED, *wanted)] == urls
    names = [f"client-{number:057}" for number in range(MOST_WATCHERS + 5)]
    for name in names:
        seq = await registered(session, "watched", client=name)
        await session.run(sql.WATCH_TASK, {"seq": seq, "client": name, "first_poll_at": 2})
    ((watchers,),) = await session.table("SELECT watchers FROM tasks WHERE task_id = 'watched'")
    assert watchers.split(",") == names[:MOST_WATCHERS]


async def test_two_urls_that_begin_alike_are_two(session: Session) -> None:
    """A registration is found by the whole of its URL."""
    for end in ("", "/", "/a", "/A", "/a?b"):
        await registered(session, url=f"https://example.com{end}")
        await registered(session, url=f"https://example.com{end}")
    assert await session.table("SELECT count(*) FROM callbacks") == [(5,)]


async def test_claims_leave_the_indexes_alone(session: Session) -> None:
    """Claiming a batch of webhooks, and giving them back, changes nothing that is indexed."""
    for number in range(0, 300, 50):
        tasks = [("kie", f"task-{number + one}", 1, 2, None, "ann") for one in range(50)]
        seqs = [row[2] for row in await session.rows(sql.INSERT_TASKS, *tasks)]
        callbacks = [
            (
                "kie",
                task[1],
                task[1],
                "ann",
                "https://example.com",
                "https://example.com",
                b'{"orderId":7}',
                60,
                1,
                2,
                "standard",
                None,
            )
            for task in tasks
        ]
        await session.rows(sql.INSERT_CALLBACKS, *callbacks)
        await session.rows(sql.OWE_WEBHOOKS, *[(seq, 2**62, 5, None, None, None, None) for seq in seqs])
        await session.rows(sql.SETTLE_TASKS, *[(seq, "success", b"{}", 5, 1, None, b"", None) for seq in seqs])
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'callbacks'"
    await session.run("SELECT pg_stat_force_next_flush()")
    ((updated_before, hot_before),) = await session.table(counts)
    claimed = await session.claim(300)
    await session.rows(deliversql.RELEASE_WEBHOOKS, *[(row[0], row[11]) for row in claimed])
    await session.run("SELECT pg_stat_force_next_flush()")
    ((updated, hot),) = await session.table(counts)
    assert updated - updated_before == 600
    assert hot - hot_before > 0.7 * 600
