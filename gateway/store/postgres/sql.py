"""Every statement of tasks, callbacks, attempts and small values, for PostgreSQL 14 and later: ``dialect.Statements``.

What many writes of one kind share is one statement over arrays, a column each. At READ COMMITTED each statement sees
what was committed when it began, and a row that it has waited for as it is by then; who locks what first stands in the
schema. Plans must not depend on statistics, which a new table has none of: from the rows that are given to what they
name, by an index. ``OFFSET 0`` keeps the planner from another order, ``PLANNER`` from reading a table through.

The ports have all of them here, through their engine; a part stands in ``registersql.py``.
"""

from gateway.core.claims import DueTask
from gateway.core.memory import SMALL
from gateway.core.model import Attempt, CallbackState
from gateway.core.pollhistory import KEPT, MOST, SIZE
from gateway.store.dialect import LANE as _LANE
from gateway.store.dialect import OWED_AT_ONCE
from gateway.store.postgres.registersql import INSERT_CALLBACKS as INSERT_CALLBACKS
from gateway.store.postgres.registersql import INSERT_TASKS as INSERT_TASKS
from gateway.store.postgres.registersql import NAME_MODEL as NAME_MODEL
from gateway.store.postgres.registersql import OWE_RECORD as OWE_RECORD
from gateway.store.postgres.registersql import OWE_WEBHOOK as OWE_WEBHOOK
from gateway.store.postgres.registersql import REVIVE_TASK as REVIVE_TASK
from gateway.store.postgres.registersql import SELECT_REGISTERED as SELECT_REGISTERED
from gateway.store.postgres.registersql import WATCH_TASK as WATCH_TASK
from gateway.store.postgres.statements import CALLBACK, TASK, counted, given

PLANNER = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
"""What the planner is told in each session, or transaction. A plan made while a table is empty serves until its next
ANALYZE, a minute later, when it may have 100,000 rows. Plans are made once: making one takes longer than running it."""

_DUE_TASK = ", ".join(DueTask.__struct_fields__[1:]).replace("due_at", "next_poll_at")
_TASK_OF = "LATERAL (SELECT * FROM tasks WHERE seq = c.task_seq OFFSET 0) AS t"

# Reading for the API.

SELECT_CALLBACK = f"""
SELECT {CALLBACK}, {TASK} FROM callbacks AS c CROSS JOIN {_TASK_OF}
WHERE c.id = :id AND c.client = coalesce(:client, c.client)
"""  # noqa: S608 - as above


def select_callbacks(*, state: CallbackState | None, by_task: bool, every_client: bool = False) -> str:
    """Build the list query: from a task's callbacks, or along the client's, or everybody's, newest first.

    For everybody's in one state there is no index: it is asked for each client. A client's are asked for in each state.
    """
    if by_task:
        return _select_a_tasks(state, every_client=every_client)
    if every_client:
        its = "SELECT * FROM callbacks WHERE seq < :before ORDER BY seq DESC LIMIT :limit"
    else:
        states = ", ".join(f"'{one.value}'" for one in ([state] if state else CallbackState))
        its = f"""
        SELECT c.* FROM unnest(ARRAY[{states}]) AS one (state) CROSS JOIN LATERAL (
            SELECT * FROM callbacks
            WHERE client = :client AND callbacks.state || '' = one.state AND -seq > -CAST(:before AS bigint)
            ORDER BY client, callbacks.state || '', -seq LIMIT :limit) AS c
        ORDER BY c.seq DESC LIMIT :limit"""  # noqa: S608 - values of an enum
    return f"""
    SELECT {CALLBACK}, {TASK} FROM ({its}) AS c CROSS JOIN {_TASK_OF} ORDER BY c.seq DESC
    """  # noqa: S608 - as above


def _select_a_tasks(state: CallbackState | None, *, every_client: bool) -> str:
    of_client = "" if every_client else "AND hashtextextended(client, 0) = hashtextextended(:client, 0)"
    where = ["c.seq < :before"]
    where += [] if every_client else ["c.client = :client"]
    where += [] if state is None else [f"c.state = '{state.value}'"]
    return f"""
    SELECT {CALLBACK}, {TASK} FROM (SELECT * FROM tasks WHERE task_id = :task_id OFFSET 0) AS t
    CROSS JOIN LATERAL (SELECT * FROM callbacks WHERE task_seq = t.seq {of_client} OFFSET 0) AS c
    WHERE {" AND ".join(where)} ORDER BY c.seq DESC LIMIT :limit
    """  # noqa: S608 - as above


# The outcome where it is small; what is large is asked for by itself, once there is room for it.
SELECT_TASK = f"""
SELECT {TASK}, CASE WHEN length(t.outcome) <= {SMALL} THEN t.outcome END, coalesce(length(t.outcome), 0)
FROM (SELECT * FROM tasks WHERE task_id = :task_id OFFSET 0) AS t
WHERE EXISTS (
    SELECT FROM callbacks
    WHERE task_seq = t.seq AND hashtextextended(client, 0) = hashtextextended(:client, 0) AND client || '' = :client
    OFFSET 0)
OR (CAST(:client AS text) IS NULL AND EXISTS (SELECT FROM callbacks WHERE task_seq = t.seq OFFSET 0))
ORDER BY t.seq DESC LIMIT 1
"""  # noqa: S608 - as above

SELECT_LARGE = {
    column: f"SELECT {column} FROM tasks WHERE seq = $1"  # noqa: S608 - constants
    for column in ("outcome", "record")
}
# A large outcome or record is written where its settlement stands, which has left it empty.
WRITE_LARGE = {
    column: f"UPDATE tasks SET {column} = $2 WHERE seq = $1 AND length({column}) = 0"  # noqa: S608 - constants
    for column in ("outcome", "record")
}

_ATTEMPT = ", ".join(Attempt.__struct_fields__)

SELECT_ATTEMPTS = f"""
SELECT {_ATTEMPT} FROM attempts WHERE callback_seq = $1 ORDER BY number DESC LIMIT $2
"""  # noqa: S608 - as above

SELECT_STATE = "SELECT seq, task_seq, state FROM callbacks WHERE id = :id AND client = coalesce(:client, client)"

# From one name to the next along the index, and not through all of the rows.
SELECT_CLIENTS = """
WITH RECURSIVE named (client) AS (
    (SELECT client FROM callbacks ORDER BY client LIMIT 1)
    UNION ALL SELECT next.client FROM named
    CROSS JOIN LATERAL (SELECT client FROM callbacks WHERE client > named.client ORDER BY client LIMIT 1) AS next)
SELECT client FROM named
"""

SELECT_POLLED_UPSTREAMS = """
WITH RECURSIVE named (upstream) AS (
    (SELECT upstream FROM tasks WHERE next_poll_at IS NOT NULL AND state = 'waiting' ORDER BY upstream LIMIT 1)
    UNION ALL SELECT next.upstream FROM named CROSS JOIN LATERAL (
        SELECT upstream FROM tasks
        WHERE upstream > named.upstream AND next_poll_at IS NOT NULL AND state = 'waiting'
        ORDER BY upstream LIMIT 1) AS next)
SELECT upstream FROM named
"""
COUNT_POLLED_TASKS = """
SELECT count(*) FROM (
    SELECT FROM tasks WHERE upstream = $1 AND next_poll_at IS NOT NULL AND state = 'waiting' LIMIT $2) AS polled
"""

COUNT_CALLBACKS = "SELECT state, count(*) FROM callbacks GROUP BY state"

# Counting, so many rows at a time along an index.

_POLLED = "next_poll_at IS NOT NULL AND state = 'waiting'", "upstream, watchers, next_poll_at, seq", ("", "", 0, 0)
_OWED = "next_attempt_at IS NOT NULL", "client, receiver, next_attempt_at, seq", ("", "", 0, 0)
_DEAD = "state = 'dead'", "client, ended_at, seq", ("", 0, 0)
COUNT_WAITING = counted("upstream", "next_poll_at", "tasks", *_POLLED)
COUNT_PENDING = counted("''", "next_attempt_at", "callbacks", *_OWED)
COUNT_PENDING_LANES = counted(_LANE, "next_attempt_at", "callbacks", *_OWED)
COUNT_DEAD = counted("''", "ended_at", "callbacks", *_DEAD)

# Cancelling and redelivering.

# What is returned is what stands once both are locked, however long that took.
LOCK_STATE = """
SELECT c.seq, c.task_seq, c.state, c.ended_at
FROM (SELECT seq, task_seq FROM callbacks WHERE id = :id AND client = coalesce(:client, client)) AS found
CROSS JOIN LATERAL (SELECT seq FROM tasks WHERE seq = found.task_seq FOR NO KEY UPDATE) AS t
CROSS JOIN LATERAL (SELECT * FROM callbacks WHERE seq = found.seq AND task_seq = t.seq FOR NO KEY UPDATE) AS c
"""

CANCEL_CALLBACK = """
UPDATE callbacks SET state = 'cancelled', cancelled = seq, ended_at = $1, next_attempt_at = NULL
WHERE seq = $2 AND state IN ('waiting', 'pending')
"""

_NOBODY_WAITS = (
    """NOT EXISTS (SELECT FROM callbacks WHERE task_seq = tasks.seq AND callbacks.state = 'waiting' OFFSET 0)"""
)

# Nobody waits for these tasks any more: stop asking. A new registration revives one.
IDLE_TASKS = f"""
UPDATE tasks SET next_poll_at = NULL
FROM {given("idle", "seq", "now")}
WHERE tasks.seq = ANY (ARRAY[idle.seq]) AND next_poll_at IS NOT NULL AND coalesce(read_until, 0) <= idle.now
AND {_NOBODY_WAITS}
"""  # noqa: S608 - as above

# A claim stays: who has it records its attempt, which is fenced off, and then this is due.
_REDELIVER = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :now, budget_used = 0, redeliveries = redeliveries + 1,
    ended_at = NULL, delivered_at = NULL
"""

REDELIVER_CALLBACK = (
    f"{_REDELIVER} WHERE seq = :seq AND state IN ('pending', 'delivered', 'dead') RETURNING client, receiver"
)

REDELIVER_DEAD = f"""
WITH dead AS MATERIALIZED (
    SELECT seq FROM callbacks
    WHERE client = :client AND state = 'dead' AND ended_at >= :since AND ended_at < :until
    ORDER BY client, ended_at, seq LIMIT :limit),
locked AS MATERIALIZED (
    SELECT c.seq FROM (SELECT seq FROM dead ORDER BY seq) AS dead CROSS JOIN LATERAL (
        SELECT seq FROM callbacks WHERE callbacks.seq = dead.seq AND coalesce(callbacks.state, '') = 'dead'
        FOR NO KEY UPDATE) AS c)
{_REDELIVER} WHERE seq = ANY (ARRAY(SELECT seq FROM locked)) RETURNING client, receiver
"""  # noqa: S608 - as above

# Polling.

# The claimed ones, an array of their seqs, are passed over. None is due before $3: what polls leave behind in the index
# stays while anybody has a transaction open, and to pass over that of 20,000 took up to 20 ms.
SELECT_DUE_TASKS = f"""
SELECT seq, {_DUE_TASK} FROM tasks
WHERE upstream = $1 AND watchers = $2 AND next_poll_at IS NOT NULL AND state = 'waiting'
    AND next_poll_at >= $3 AND seq NOT IN (SELECT * FROM unnest(CAST($4 AS bigint[])))
ORDER BY upstream, watchers, next_poll_at, seq LIMIT $5
"""  # noqa: S608 - as above

# Who watches what: from one group to the next along the index, with its earliest; of $1 many at once, as whoever begins
# to lead it has seconds for all of them.
_A_GROUP = "SELECT upstream, watchers, next_poll_at FROM tasks WHERE next_poll_at IS NOT NULL AND state = 'waiting'"
_FIRST = "ORDER BY upstream, watchers, next_poll_at, seq LIMIT 1"
SELECT_NEXT_WATCHERS = f"""
WITH RECURSIVE following (upstream, watchers, next_poll_at) AS (
    ({_A_GROUP} AND (upstream, watchers) > ($1, $2) {_FIRST})
    UNION ALL SELECT next.* FROM following CROSS JOIN LATERAL (
        {_A_GROUP} AND upstream = $1 AND following.upstream = $1 AND watchers > following.watchers {_FIRST}) AS next)
SELECT upstream, watchers, next_poll_at FROM following LIMIT 1000
"""  # noqa: S608 - as above

# The first of each who watch. By the rows' own order, and few of them: a long queue of others costs nothing.
SELECT_NEW_TASKS = f"""
SELECT * FROM (
    SELECT DISTINCT ON (watchers) seq, {_DUE_TASK} FROM (
        SELECT * FROM tasks WHERE seq > (SELECT seq FROM tasks ORDER BY seq DESC LIMIT 1) - 1000 OFFSET 0) AS last
    WHERE upstream = $1 AND polls = 0 AND created_at >= $2 AND next_poll_at <= $3
        AND seq NOT IN (SELECT * FROM unnest(CAST($4 AS bigint[])))
    ORDER BY watchers, seq) AS first
ORDER BY seq
"""  # noqa: S608 - as above

# A cancelled last callback may have idled the task while it was polled: then it stays so. A record is kept for readers;
# what somebody was told after the poll was sent is newer, and nothing is after an end. And what was wished for since
# then comes true: the next poll is no later.
_POLL = (
    "seq",
    "polled_at",
    "next_poll_at",
    "error text",
    "born_at",
    "model text",
    "record bytea",
    "asked_at",
    "denied_at",
    "told bytea",
)
# A poll is put behind those before it, of which the first and the last are kept.
_POLL_LOG = f"""CASE WHEN coalesce(length(tasks.poll_log), 0) < {MOST} THEN coalesce(tasks.poll_log, '') || {{0}}
            ELSE substr(tasks.poll_log, 1, {KEPT}) || substr(tasks.poll_log, {KEPT + SIZE + 1}) || {{0}} END"""
_NEWS = "(tasks.record IS NULL OR poll.asked_at >= coalesce(tasks.told_at, 0))"
RESCHEDULE_TASKS = f"""
WITH moved AS (
    UPDATE tasks SET polls = polls + 1, last_polled_at = poll.polled_at, last_error = poll.error,
        failures = CASE WHEN poll.error IS NULL THEN 0 ELSE failures + 1 END,
        next_poll_at = CASE WHEN tasks.next_poll_at IS NULL THEN NULL
            WHEN tasks.next_poll_at > poll.asked_at THEN least(tasks.next_poll_at, poll.next_poll_at)
            ELSE poll.next_poll_at END,
        born_at = coalesce(poll.born_at, tasks.born_at), model = coalesce(poll.model, tasks.model),
        record = CASE WHEN tasks.read_until IS NULL THEN NULL
            WHEN {_NEWS} THEN coalesce(poll.record, tasks.record) ELSE tasks.record END,
        told_at = CASE WHEN poll.record IS NOT NULL AND {_NEWS} THEN poll.polled_at ELSE tasks.told_at END,
        denied_at = CASE WHEN poll.error IS NULL THEN NULL
            WHEN {_NEWS} THEN coalesce(tasks.denied_at, poll.denied_at) ELSE tasks.denied_at END,
        poll_log = {_POLL_LOG.format("poll.told")}
    FROM (SELECT * FROM {given("new", *_POLL)} ORDER BY seq) AS poll
    WHERE tasks.seq = ANY (ARRAY[poll.seq]) AND tasks.state = 'waiting'
    RETURNING tasks.seq, tasks.next_poll_at, poll.next_poll_at AS wanted_at)
SELECT seq, next_poll_at FROM moved WHERE next_poll_at < wanted_at
"""  # noqa: S608 - as above

# Some of them where there are many: whoever registered first need not be the first.
SELECT_TRACES = """
SELECT trace FROM (
    SELECT seq, trace FROM callbacks WHERE task_seq = $1 AND callbacks.state = 'waiting' AND trace IS NOT NULL
    LIMIT $2) AS its
ORDER BY seq
"""

POLL_TASKS_NOW = f"""
UPDATE tasks SET next_poll_at = least(next_poll_at, late.now)
FROM (SELECT * FROM {given("given", "seq", "now")} ORDER BY seq) AS late
WHERE tasks.seq = ANY (ARRAY[late.seq]) AND next_poll_at IS NOT NULL AND EXISTS (
    SELECT FROM callbacks
    WHERE task_seq = tasks.seq AND callbacks.state = 'waiting' AND expires_at <= late.now OFFSET 0)
RETURNING upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

# Settling: the webhooks first, then the task, if nobody waits any more. A callback waits only while its task does.
# A body is stored where it cannot be made from its task's row: where the callback was given up. How the upstream has
# ended a task, however large that is and for however many, stands in its row once, as the outcome and, where a webhook
# of format record is owed, as that one's body: its callbacks' bodies are empty.

OWE_WEBHOOKS = f"""
UPDATE callbacks AS c SET state = 'pending', next_attempt_at = owed.deliver_at,
    body = coalesce(CASE WHEN c.format = 'record' THEN owed.record
        ELSE owed.head || convert_to(c.id, 'UTF8') || owed.middle || c.metadata || owed.tail END, '')
FROM (
    SELECT its.seq, settled.* FROM {
    given("settled", "task_seq", "expired_by", "deliver_at", "head bytea", "middle bytea", "tail bytea", "record bytea")
}
    CROSS JOIN LATERAL (
        SELECT seq FROM callbacks
        WHERE task_seq = settled.task_seq AND state = 'waiting' AND expires_at <= settled.expired_by OFFSET 0) AS its
    LIMIT {OWED_AT_ONCE}) AS owed
WHERE c.seq = ANY (ARRAY[owed.seq]) AND c.body IS NULL AND c.cancelled <> c.seq
RETURNING c.task_seq, c.id, c.client, c.receiver, c.format
"""  # noqa: S608 - as above

SETTLE_TASKS = f"""
UPDATE tasks SET state = settled.state, outcome = settled.outcome, record = settled.record, settled_at = settled.at,
    next_poll_at = NULL, polls = tasks.polls + settled.polls, told_at = settled.told_at, denied_at = NULL,
    last_polled_at = CASE WHEN settled.polls > 0 THEN settled.at ELSE last_polled_at END,
    last_error = CASE WHEN settled.polls > 0 THEN NULL ELSE last_error END, failures = 0,
    poll_log = CASE WHEN settled.polls > 0 THEN {_POLL_LOG.format("settled.told")} ELSE tasks.poll_log END
FROM (SELECT * FROM {
    given("ended", "seq", "state text", "outcome bytea", "at", "polls", "record bytea", "told bytea", "told_at")
} ORDER BY seq) AS settled
WHERE tasks.seq = ANY (ARRAY[settled.seq]) AND tasks.state = 'waiting'
AND (settled.polls > 0 OR coalesce(tasks.read_until, 0) <= settled.at) AND {_NOBODY_WAITS}
"""  # noqa: S608 - as above

# From the few that have expired to their tasks: whatever their upstream, a part of them at a time.
_EXPIRING = "FROM callbacks WHERE next_attempt_at IS NULL AND ended_at IS NULL AND expires_at"
SELECT_EXPIRY_END = f"SELECT expires_at {_EXPIRING} BETWEEN $1 AND $2 ORDER BY expires_at LIMIT 1 OFFSET $3"
SELECT_EXPIRED = f"""
SELECT DISTINCT t.seq FROM (SELECT task_seq {_EXPIRING} BETWEEN $1 AND $2 OFFSET 0) AS c
CROSS JOIN LATERAL (SELECT seq, upstream FROM tasks WHERE seq = c.task_seq OFFSET 0) AS t
WHERE t.upstream = $3 ORDER BY t.seq
"""  # noqa: S608 - as above
SELECT_NEXT_EXPIRY = f"SELECT min(expires_at) {_EXPIRING} > $1"

SELECT_EXPIRIES = """
SELECT t.seq, t.task_id, c.at, t.last_polled_at, t.failures FROM unnest(CAST($1 AS bigint[])) AS its (seq)
CROSS JOIN LATERAL (SELECT * FROM tasks WHERE tasks.seq = its.seq OFFSET 0) AS t
CROSS JOIN LATERAL (
    SELECT min(expires_at) AS at FROM callbacks WHERE task_seq = t.seq AND callbacks.state = 'waiting') AS c
WHERE c.at IS NOT NULL ORDER BY c.at
"""

# Keeping house.

# A part at a time. Their tasks are locked first, as by everybody; once a callback is locked too it is seen whether it
# still is ended. What another replica has locked is left to it.
_ENDED = """
(SELECT seq, task_seq, ended_at FROM callbacks WHERE '' || state = '{0}' AND ended_at IS NOT NULL AND ended_at < :{1}
    ORDER BY '' || state, ended_at LIMIT :limit)"""
PRUNE_CALLBACKS = f"""
WITH old AS MATERIALIZED (
    {_ENDED.format("delivered", "ended_before")} UNION ALL {_ENDED.format("cancelled", "ended_before")}
    UNION ALL {_ENDED.format("dead", "dead_before")} LIMIT :limit),
gone AS MATERIALIZED (
    SELECT c.seq FROM (SELECT * FROM old ORDER BY task_seq, seq) AS old
    CROSS JOIN LATERAL (SELECT seq FROM tasks WHERE tasks.seq = old.task_seq FOR NO KEY UPDATE SKIP LOCKED) AS t
    CROSS JOIN LATERAL (
        SELECT seq FROM callbacks
        WHERE callbacks.seq = old.seq AND callbacks.ended_at IS NOT DISTINCT FROM old.ended_at
        FOR UPDATE SKIP LOCKED) AS c)
DELETE FROM callbacks WHERE seq = ANY (ARRAY(SELECT seq FROM gone)) RETURNING task_seq
"""  # noqa: S608 - as above

PRUNE_TASKS = f"""
DELETE FROM tasks USING {given("old", "seq")}
WHERE tasks.seq = ANY (ARRAY[old.seq]) AND read_until IS NULL AND NOT EXISTS (
    SELECT FROM callbacks WHERE task_seq = tasks.seq OFFSET 0)
"""  # noqa: S608 - as above

# The database itself.

SELECT_META = "SELECT value FROM meta WHERE key = $1"
INSERT_META = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
SWAP_META = "UPDATE meta SET value = $1 WHERE key = $2 AND value = $3"
PROBE = "INSERT INTO meta (key, value) VALUES ('probe', '') ON CONFLICT (key) DO UPDATE SET value = excluded.value"
