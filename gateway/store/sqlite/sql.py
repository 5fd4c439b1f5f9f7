"""The statements of SQLite, named, but for those of modules beside this one. Rows come out in the order of a type's
fields.

What many writes of one kind share is one statement over all their rows, which stand where it says ``(VALUES ?)``:
``rows.py`` makes them, ``statements.py`` puts them in.
"""

from functools import cache

from gateway.core.memory import SMALL
from gateway.core.model import Attempt, CallbackState
from gateway.core.pollhistory import KEPT, MOST, SIZE
from gateway.store.dialect import LANE as _LANE
from gateway.store.dialect import NEW_CALLBACK, OWED_AT_ONCE
from gateway.store.sqlite.columns import CALLBACK as _CALLBACK
from gateway.store.sqlite.columns import DUE_TASK as _DUE_TASK
from gateway.store.sqlite.columns import TASK as _TASK
from gateway.store.sqlite.columns import callbacks_at_once, due_tasks_at_once
from gateway.store.sqlite.statements import counted

# Registering: two steps in one transaction, each over all registrations that wait.

INSERT_TASKS = """
WITH new (upstream, task_id, created_at, next_poll_at, model, watchers) AS (VALUES ?)
INSERT INTO tasks (upstream, task_id, created_at, next_poll_at, model, watchers)
SELECT upstream, task_id, created_at, next_poll_at, model, watchers FROM new WHERE upstream IS NOT NULL
ON CONFLICT (upstream, task_id) DO NOTHING
RETURNING upstream, task_id, seq
"""

# The same client, task and URL again does nothing: SELECT_REGISTERED then finds the one that stands.
INSERT_CALLBACKS = f"""
WITH new (upstream, task_id, {", ".join(NEW_CALLBACK)}) AS (VALUES ?)
INSERT INTO callbacks (task_seq, {", ".join(NEW_CALLBACK)})
SELECT t.seq, {", ".join(f"new.{name}" for name in NEW_CALLBACK)}
FROM new CROSS JOIN tasks AS t ON t.upstream = new.upstream AND t.task_id = new.task_id
WHERE true
ON CONFLICT (task_seq, client, url, cancelled) DO NOTHING
RETURNING id, seq
"""  # noqa: S608 - the interpolated parts are the constant above

# As many rows as are wanted, in their places' order.
SELECT_REGISTERED = callbacks_at_once(f"""
WITH wanted (upstream, task_id, client, url, place) AS (VALUES ?)
SELECT {_CALLBACK}, {_TASK}
FROM wanted
CROSS JOIN tasks AS t ON t.upstream = wanted.upstream AND t.task_id = wanted.task_id
CROSS JOIN callbacks AS c
    ON c.task_seq = t.seq AND c.client = wanted.client AND c.url = wanted.url AND c.cancelled = 0
ORDER BY wanted.place
""")  # noqa: S608 - the interpolated parts are the constants above

# A task that nobody watched any more, or that was given up, and not one that the upstream has ended: poll it again for
# the new callback's sake, and now, as it is older than a new one. Of several at once the first one does.
REVIVE_TASK = """
UPDATE tasks SET state = 'waiting', created_at = :now, next_poll_at = :now, settled_at = NULL, outcome = NULL,
    failures = 0, watchers = :client, poll_log = NULL
WHERE seq = :seq AND state IN ('waiting', 'abandoned') AND next_poll_at IS NULL
"""

# A further client watches the task, whose first poll may not be put off as far for it as for the others. Who does not
# wait any more may stay named: it makes no difference to the others. Who is named already joins at no cost: to find out
# who else waits, all of its callbacks are read. Its readers stay. In one order, as the same clients have one turn.
WATCH_TASK = """
UPDATE tasks SET next_poll_at = iif(polls = 0, min(next_poll_at, :first_poll_at), next_poll_at), watchers = (
    SELECT group_concat(client) FROM (
        SELECT client FROM callbacks INDEXED BY callbacks_waiting WHERE task_seq = :seq AND state = 'waiting' UNION
        SELECT value FROM json_each(iif(read_until IS NULL, '[]', '["' || replace(watchers, ',', '","') || '"]'))
        ORDER BY 1))
WHERE seq = :seq AND next_poll_at IS NOT NULL AND instr(',' || watchers || ',', ',' || :client || ',') = 0
RETURNING seq, upstream, watchers, next_poll_at
"""

# For a task of which neither the upstream nor an earlier registration has told it.
NAME_MODEL = "UPDATE tasks SET model = :model WHERE seq = :seq AND model IS NULL"

# Reading for the API.

SELECT_CALLBACK = f"""
SELECT {_CALLBACK}, {_TASK} FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
WHERE c.id = :id AND c.client = coalesce(:client, c.client)
"""  # noqa: S608 - the interpolated parts are the constants above


@cache
def select_callbacks(*, state: CallbackState | None, by_task: bool, every_client: bool = False) -> str:
    """Build the list query: from a task's callbacks, or along the client's, or everybody's, newest first.

    For everybody's in one state there is no index: it is asked for each client.
    """
    if by_task:
        return _select_a_tasks(state, every_client=every_client)
    index = "callbacks_client" if state is None else "callbacks_client_state"
    source = f"callbacks AS c INDEXED BY {index} CROSS JOIN tasks AS t ON t.seq = c.task_seq"
    where = ["c.client = :client", "c.seq < :before"]
    if every_client:
        source = "callbacks AS c CROSS JOIN tasks AS t ON t.seq = c.task_seq"
        where = ["c.seq < :before"]
    if state is not None:
        where.append(f"c.state = '{state.value}'")
    return callbacks_at_once(f"""
    SELECT {_CALLBACK}, {_TASK} FROM {source}
    WHERE {" AND ".join(where)} ORDER BY c.seq DESC LIMIT :limit
    """)  # noqa: S608 - constants, and a value of an enum


def _select_a_tasks(state: CallbackState | None, *, every_client: bool) -> str:
    # It may have tens of thousands: which ones are listed is found in the indexes, and only these are read, whose
    # metadata may be large. The plus sign keeps SQLite from going through all of the client's callbacks after all.
    where = ["t.task_id = :task_id", "true" if every_client else "o.client = :client", "+o.seq < :before"]
    if state is not None:
        where.append(f"""EXISTS (
            SELECT 1 FROM callbacks AS s INDEXED BY callbacks_client_state
            WHERE s.client = o.client AND s.state = '{state.value}' AND s.seq = o.seq)""")  # noqa: S608 - as above
    return callbacks_at_once(f"""
    SELECT {_CALLBACK}, {_TASK} FROM callbacks AS c CROSS JOIN tasks AS t ON t.seq = c.task_seq
    WHERE c.seq IN (
        SELECT o.seq FROM tasks AS t CROSS JOIN callbacks AS o ON o.task_seq = t.seq
        WHERE {" AND ".join(where)} ORDER BY o.seq DESC LIMIT :limit)
    ORDER BY c.seq DESC
    """)  # noqa: S608 - as above


# The outcome where it is small; what is large is asked for by itself, once there is room for it.
SELECT_TASK = f"""
SELECT {_TASK}, iif(length(t.outcome) <= {SMALL}, t.outcome, NULL), coalesce(length(t.outcome), 0)
FROM tasks AS t
WHERE t.task_id = :task_id AND (
    EXISTS (SELECT 1 FROM callbacks AS c WHERE c.task_seq = t.seq AND c.client = :client)
    OR (:client IS NULL AND EXISTS (SELECT 1 FROM callbacks AS c WHERE c.task_seq = t.seq)))
ORDER BY t.seq DESC LIMIT 1
"""  # noqa: S608 - the interpolated parts are constants above

SELECT_BYTES = {
    column: f"SELECT length({column}) FROM tasks WHERE seq = ? AND {column} IS NOT NULL"  # noqa: S608 - constants
    for column in ("outcome", "record")
}

_ATTEMPT = ", ".join(Attempt.__struct_fields__)

SELECT_ATTEMPTS = f"""
SELECT {_ATTEMPT} FROM attempts WHERE callback_seq = ? ORDER BY number DESC LIMIT ?
"""  # noqa: S608 - as above

SELECT_STATE = "SELECT seq, task_seq, state FROM callbacks WHERE id = :id AND client = coalesce(:client, client)"
# Within a transaction nobody else writes.
LOCK_STATE = SELECT_STATE.replace("state FROM", "state, ended_at FROM")

# From one name to the next along the index, and not through all of the rows.
SELECT_CLIENTS = """
WITH RECURSIVE named (client) AS (
    SELECT min(client) FROM callbacks
    UNION ALL SELECT (SELECT min(client) FROM callbacks WHERE client > named.client) FROM named
    WHERE named.client IS NOT NULL)
SELECT client FROM named WHERE client IS NOT NULL
"""

SELECT_POLLED_UPSTREAMS = """
WITH RECURSIVE named (upstream) AS (
    SELECT min(upstream) FROM tasks WHERE next_poll_at IS NOT NULL
    UNION ALL SELECT (
        SELECT min(upstream) FROM tasks WHERE upstream > named.upstream AND next_poll_at IS NOT NULL) FROM named
    WHERE named.upstream IS NOT NULL)
SELECT upstream FROM named WHERE upstream IS NOT NULL
"""
COUNT_POLLED_TASKS = """
SELECT count(*) FROM (SELECT 1 FROM tasks WHERE upstream = ? AND next_poll_at IS NOT NULL LIMIT ?)
"""

CANCEL_CALLBACK = """
UPDATE callbacks SET state = 'cancelled', cancelled = seq, ended_at = ?, next_attempt_at = NULL
WHERE seq = ? AND state IN ('waiting', 'pending')
"""

# Nobody waits for these tasks any more: stop asking. A new registration revives them.
IDLE_TASKS = """
WITH gone (seq, now) AS (VALUES ?)
UPDATE tasks SET next_poll_at = NULL
FROM gone WHERE tasks.seq = gone.seq AND tasks.next_poll_at IS NOT NULL AND coalesce(tasks.read_until, 0) <= gone.now
AND NOT EXISTS (
    SELECT 1 FROM callbacks INDEXED BY callbacks_waiting WHERE task_seq = tasks.seq AND state = 'waiting')
"""

_REDELIVER = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :now, budget_used = 0, redeliveries = redeliveries + 1,
    ended_at = NULL, delivered_at = NULL
"""

REDELIVER_CALLBACK = (
    f"{_REDELIVER} WHERE seq = :seq AND state IN ('pending', 'delivered', 'dead') RETURNING client, receiver"
)

REDELIVER_DEAD = f"""
{_REDELIVER} WHERE seq IN (
    SELECT seq FROM callbacks INDEXED BY callbacks_dead
    WHERE client = :client AND state = 'dead' AND ended_at >= :since AND ended_at < :until
    ORDER BY ended_at LIMIT :limit)
RETURNING client, receiver
"""  # noqa: S608 - the interpolated part is the constant above

# Polling.

# The claimed ones, a JSON array of their seqs, are passed over in the index: their rows are not read.
SELECT_DUE_TASKS = due_tasks_at_once(f"""
SELECT seq, {_DUE_TASK} FROM tasks
WHERE upstream = ? AND watchers = ? AND next_poll_at >= ? AND seq NOT IN (SELECT value FROM json_each(?))
ORDER BY next_poll_at LIMIT ?
""")  # noqa: S608 - the interpolated part is the constant above

# Who watches what: from one group to the next along the index, with its earliest.
SELECT_NEXT_WATCHERS = """
SELECT upstream, watchers, next_poll_at FROM tasks INDEXED BY tasks_due
WHERE next_poll_at IS NOT NULL AND (upstream, watchers) > (?, ?)
ORDER BY upstream, watchers, next_poll_at LIMIT 1
"""

# The first of each who watch. By the rows' own order, and few of them: a long queue of others costs nothing.
SELECT_NEW_TASKS = due_tasks_at_once(f"""
SELECT min(seq), {_DUE_TASK} FROM tasks
WHERE seq > (SELECT max(seq) FROM tasks) - 1000 AND +upstream = ? AND polls = 0 AND created_at >= ?
    AND +next_poll_at <= ? AND seq NOT IN (SELECT value FROM json_each(?))
GROUP BY watchers ORDER BY min(seq)
""")  # noqa: S608 - as above

# A cancelled last callback may have idled the task while it was polled: then it stays so. A record is kept for readers;
# what somebody was told after the poll was sent is newer, and nothing is after an end. And what was wished for since
# then comes true: the next poll is no later.
# A poll is put behind those before it, of which the first and the last are kept.
_POLL_LOG = f"""CAST(CASE WHEN tasks.poll_log IS NULL THEN {{0}}
        WHEN length(tasks.poll_log) < {MOST} THEN tasks.poll_log || {{0}}
        ELSE substr(tasks.poll_log, 1, {KEPT}) || substr(tasks.poll_log, {KEPT + SIZE + 1}) || {{0}} END AS BLOB)"""
_NEWS = "(tasks.record IS NULL OR poll.asked_at >= coalesce(tasks.told_at, 0))"
RESCHEDULE_TASKS = f"""
WITH poll (seq, polled_at, next_poll_at, error, born_at, model, record, asked_at, denied_at, told) AS (VALUES ?)
UPDATE tasks SET polls = polls + 1, last_polled_at = poll.polled_at, last_error = poll.error,
    failures = iif(poll.error IS NULL, 0, failures + 1),
    next_poll_at = CASE WHEN tasks.next_poll_at IS NULL THEN NULL
        WHEN tasks.next_poll_at > poll.asked_at THEN min(tasks.next_poll_at, poll.next_poll_at)
        ELSE poll.next_poll_at END,
    born_at = coalesce(poll.born_at, tasks.born_at), model = coalesce(poll.model, tasks.model),
    record = CASE WHEN tasks.read_until IS NULL THEN NULL
        WHEN {_NEWS} THEN coalesce(poll.record, tasks.record) ELSE tasks.record END,
    told_at = iif(poll.record IS NOT NULL AND {_NEWS}, poll.polled_at, tasks.told_at),
    denied_at = CASE WHEN poll.error IS NULL THEN NULL
        WHEN {_NEWS} THEN coalesce(tasks.denied_at, poll.denied_at) ELSE tasks.denied_at END,
    poll_log = {_POLL_LOG.format("poll.told")}
FROM poll WHERE tasks.seq = poll.seq AND tasks.state = 'waiting'
RETURNING seq, next_poll_at
"""  # noqa: S608 - as above

# Some of them where there are many: whoever registered first need not be the first.
SELECT_TRACES = """
SELECT trace FROM (
    SELECT seq, trace FROM callbacks INDEXED BY callbacks_waiting
    WHERE task_seq = ? AND state = 'waiting' AND trace IS NOT NULL LIMIT ?)
ORDER BY seq
"""

POLL_TASKS_NOW = """
WITH wanted (seq, now) AS (VALUES ?)
UPDATE tasks SET next_poll_at = min(tasks.next_poll_at, wanted.now)
FROM wanted WHERE tasks.seq = wanted.seq AND tasks.next_poll_at IS NOT NULL AND EXISTS (
    SELECT 1 FROM callbacks AS c WHERE c.task_seq = tasks.seq AND c.state = 'waiting' AND c.expires_at <= wanted.now)
RETURNING upstream, watchers, next_poll_at
"""

# Settling: the webhooks first, then the task, if nobody waits any more. A callback waits only while its task does.
# A body is stored where it cannot be made from its task's row: where the callback was given up. How the upstream has
# ended a task, however large that is and for however many, stands in its row once, as the outcome and, where a webhook
# of format record is owed, as that one's body: its callbacks' bodies are empty.

# Materialized, limited and with a plus sign: from the settled tasks to their callbacks, and from these to their rows,
# and not through all callbacks in search of them. SQLite 3.38 needs the limit; 3.39, and from 3.41 on, the sign.
OWE_WEBHOOKS = f"""
WITH settled (task_seq, expired_by, deliver_at, head, middle, tail, record) AS (VALUES ?),
owed AS MATERIALIZED (
    SELECT c.seq AS seq, settled.deliver_at AS deliver_at, coalesce(iif(c.format = 'record', settled.record,
        CAST(settled.head || c.id || settled.middle || c.metadata || settled.tail AS BLOB)), x'') AS body
    FROM settled CROSS JOIN callbacks AS c INDEXED BY callbacks_waiting
        ON c.task_seq = settled.task_seq AND c.state = 'waiting' AND c.expires_at <= settled.expired_by
    LIMIT {OWED_AT_ONCE}
)
UPDATE callbacks SET state = 'pending', next_attempt_at = owed.deliver_at, body = owed.body
FROM owed WHERE callbacks.seq = +owed.seq
RETURNING task_seq, id, client, receiver, format
"""  # noqa: S608 - as above

# The same for one callback registered after the upstream had ended its task.
OWE_WEBHOOK = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :deliver_at, body = x'' WHERE id = :id AND state = 'waiting'
"""

# And of format record: where no body of that format was kept, it is made of the outcome, and no other comes later.
OWE_RECORD = "UPDATE tasks SET record = x'' WHERE seq = ? AND record IS NULL"

SETTLE_TASKS = f"""
WITH settled (seq, state, outcome, at, polls, record, told, told_at) AS (VALUES ?)
UPDATE tasks SET state = settled.state, outcome = settled.outcome, record = settled.record, settled_at = settled.at,
    next_poll_at = NULL, polls = tasks.polls + settled.polls, told_at = settled.told_at, denied_at = NULL,
    last_polled_at = iif(settled.polls > 0, settled.at, last_polled_at),
    last_error = iif(settled.polls > 0, NULL, last_error), failures = 0,
    poll_log = iif(settled.polls > 0, {_POLL_LOG.format("settled.told")}, tasks.poll_log)
FROM settled
WHERE tasks.seq = settled.seq AND tasks.state = 'waiting'
AND (settled.polls > 0 OR coalesce(tasks.read_until, 0) <= settled.at) AND NOT EXISTS (
    SELECT 1 FROM callbacks INDEXED BY callbacks_waiting WHERE task_seq = tasks.seq AND state = 'waiting')
"""  # noqa: S608 - as above

# A large outcome or record is written into this, where its settlement stands.
MAKE_ROOM = {
    column: f"UPDATE tasks SET {column} = zeroblob(?) WHERE seq = ? AND length({column}) = 0"  # noqa: S608 - constants
    for column in ("outcome", "record")
}

# CROSS JOIN: from the few that have expired to their tasks, not from every task the upstream ever had; whatever their
# upstream, a part of them at a time.
SELECT_EXPIRED = """
SELECT DISTINCT t.seq FROM callbacks AS c CROSS JOIN tasks AS t ON t.seq = c.task_seq
WHERE c.state = 'waiting' AND c.expires_at BETWEEN ? AND ? AND t.upstream = ? ORDER BY t.seq
"""
SELECT_EXPIRY_END = """
SELECT expires_at FROM callbacks WHERE state = 'waiting' AND expires_at BETWEEN ? AND ?
ORDER BY expires_at LIMIT 1 OFFSET ?
"""

SELECT_EXPIRIES = """
SELECT t.seq, t.task_id, min(c.expires_at), t.last_polled_at, t.failures
FROM json_each(?) AS its CROSS JOIN tasks AS t ON t.seq = its.value
CROSS JOIN callbacks AS c INDEXED BY callbacks_waiting ON c.task_seq = t.seq AND c.state = 'waiting'
GROUP BY t.seq ORDER BY min(c.expires_at)
"""

SELECT_NEXT_EXPIRY = "SELECT min(expires_at) FROM callbacks WHERE state = 'waiting' AND expires_at > ?"

# Keeping house.

PRUNE_CALLBACKS = """
DELETE FROM callbacks WHERE seq IN (
    SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND (
        (state IN ('delivered', 'cancelled') AND ended_at < :ended_before)
        OR (state = 'dead' AND ended_at < :dead_before))
    LIMIT :limit)
RETURNING task_seq
"""

PRUNE_TASKS = """
WITH gone (seq) AS (VALUES ?)
DELETE FROM tasks WHERE seq IN (SELECT seq FROM gone WHERE seq IS NOT NULL) AND read_until IS NULL
AND NOT EXISTS (SELECT 1 FROM callbacks WHERE task_seq = tasks.seq)
"""

COUNT_CALLBACKS = "SELECT state, count(*) FROM callbacks GROUP BY state"

# Counting, so many rows at a time along an index: a million counted at once would hold up every write for 0.1 s.

_POLLED = "next_poll_at IS NOT NULL", "upstream, watchers, next_poll_at, seq"
_OWED = "state = 'pending'", "client, receiver, next_attempt_at, budget_used, seq"
COUNT_WAITING = counted("upstream", "next_poll_at", "tasks INDEXED BY tasks_due", *_POLLED)
COUNT_PENDING = counted("''", "next_attempt_at", "callbacks INDEXED BY callbacks_due", *_OWED)
COUNT_PENDING_LANES = counted(_LANE, "next_attempt_at", "callbacks INDEXED BY callbacks_due", *_OWED)
COUNT_DEAD = counted("''", "ended_at", "callbacks INDEXED BY callbacks_dead", "state = 'dead'", "client, ended_at, seq")

# The database itself.

SELECT_META = "SELECT value FROM meta WHERE key = ?"
INSERT_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
SWAP_META = "UPDATE meta SET value = ? WHERE key = ? AND value = ?"
PROBE = "INSERT INTO meta (key, value) VALUES ('probe', x'') ON CONFLICT (key) DO UPDATE SET value = excluded.value"

# Following a wall clock that was set. A running task moves as a whole: its age is what it was.

MOVE_TASKS = """
UPDATE tasks SET next_poll_at = next_poll_at + :step, last_polled_at = last_polled_at + :step,
    created_at = created_at + :step, born_at = born_at + :step, denied_at = denied_at + :step
WHERE next_poll_at IS NOT NULL
"""
MOVE_EXPIRIES = "UPDATE callbacks SET expires_at = expires_at + :step WHERE state = 'waiting'"
MOVE_WEBHOOKS = "UPDATE callbacks SET next_attempt_at = next_attempt_at + :step WHERE state = 'pending'"
