"""Every statement of tasks, callbacks, attempts and small values, for PostgreSQL 14 and later: ``dialect.Statements``.

What many writes of one kind share is one statement over arrays, a column each. At READ COMMITTED each statement sees
what was committed when it began, and a row that it has waited for as it is by then; who locks what first stands in the
schema. Plans must not depend on statistics, which a new table has none of: from the rows that are given to what they
name, by an index. ``OFFSET 0`` keeps the planner from another order, ``PLANNER`` from reading a table through.

Called by the ports through their engine. Claims of webhooks and leadership are in ``leasesql.py``.
"""

from gateway.core.memory import SMALL
from gateway.core.model import Attempt, Callback, CallbackState, DueTask, Task
from gateway.store.dialect import NEW_CALLBACK
from gateway.store.postgres.statements import counted, given

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

# Registering: steps in one transaction, each over all registrations that wait.

# What stands is locked, in the order of seq. Of what is new each has its seq in the order in which it came, and is
# inserted in the order of the names: so no two that register the same wait for one another. What another has inserted
# since this began is locked as well. From here on nobody settles, gives up or deletes a task that is registered for.
INSERT_TASKS = f"""
WITH new AS MATERIALIZED (SELECT * FROM {
    given(
        "new", "upstream text", "task_id text", "created_at", "next_poll_at", "model text", "watchers text", place=True
    )
}),
known AS MATERIALIZED (
    SELECT t.task_id, t.upstream
    FROM new JOIN tasks AS t ON t.task_id = new.task_id AND t.upstream = new.upstream
    ORDER BY t.seq FOR NO KEY UPDATE OF t),
fresh AS MATERIALIZED (
    SELECT nextval('tasks_seq_seq') AS seq, first.* FROM (
        SELECT DISTINCT ON (task_id, upstream) * FROM new
        WHERE (task_id, upstream) NOT IN (SELECT task_id, upstream FROM known)
        ORDER BY task_id, upstream, place) AS first
    ORDER BY place)
INSERT INTO tasks (seq, upstream, task_id, created_at, next_poll_at, model, watchers)
SELECT seq, upstream, task_id, created_at, next_poll_at, model, watchers FROM fresh ORDER BY task_id, upstream
ON CONFLICT (task_id, upstream) DO UPDATE SET polls = tasks.polls WHERE false
RETURNING upstream, task_id, seq
"""  # noqa: S608 - the interpolated part is made of constants

# A task by its names, for each of some rows.
_NAMED_TASK = "LATERAL (SELECT * FROM tasks WHERE task_id = {0}.task_id AND upstream = {0}.upstream OFFSET 0) AS t"

_TYPES = {"metadata": "bytea", "timeout_s": "bigint", "created_at": "bigint", "expires_at": "bigint"}
_NEW_CALLBACK = ", ".join(NEW_CALLBACK)

# The same client, task and URL again does nothing: SELECT_REGISTERED then finds the one that stands.
INSERT_CALLBACKS = f"""
WITH new AS MATERIALIZED (SELECT * FROM {
    given(
        "new",
        "upstream text",
        "task_id text",
        *(f"{name} {_TYPES.get(name, 'text')}" for name in NEW_CALLBACK),
        place=True,
    )
})
INSERT INTO callbacks (task_seq, {_NEW_CALLBACK})
SELECT t.seq, {", ".join(f"new.{name}" for name in NEW_CALLBACK)}
FROM new CROSS JOIN {_NAMED_TASK.format("new")}
ORDER BY new.place
ON CONFLICT (task_seq, client, hashtextextended(url, 0), hashtextextended(url, 1), cancelled) DO NOTHING
RETURNING id, seq
"""  # noqa: S608 - as above

# A callback is shown with its task but without the outcome, which may be large.
_CALLBACK = ", ".join(f"c.{name}" for name in Callback.__struct_fields__ if name != "task")
_TASK = ", ".join(f"t.{name}" for name in Task.__struct_fields__ if name not in ("outcome", "outcome_bytes"))
_DUE_TASK = ", ".join(DueTask.__struct_fields__[1:]).replace("due_at", "next_poll_at")
_TASK_OF = "LATERAL (SELECT * FROM tasks WHERE seq = {0}.task_seq OFFSET 0) AS t"

# As many rows as are wanted, in their places' order.
SELECT_REGISTERED = f"""
SELECT {_CALLBACK}, {_TASK}
FROM {given("wanted", "upstream text", "task_id text", "client text", "url text", "place")}
CROSS JOIN {_NAMED_TASK.format("wanted")}
CROSS JOIN LATERAL (
    SELECT * FROM callbacks
    WHERE task_seq = t.seq AND client = wanted.client AND cancelled = 0 AND url = wanted.url
        AND hashtextextended(url, 0) = hashtextextended(wanted.url, 0)
        AND hashtextextended(url, 1) = hashtextextended(wanted.url, 1) OFFSET 0) AS c
ORDER BY wanted.place
"""  # noqa: S608 - as above

# A task that nobody watched any more, or that was given up, and not one that the upstream has ended: poll it again for
# the new callback's sake, and now, as it is older than a new one. Of several at once the first one does.
REVIVE_TASK = """
UPDATE tasks SET state = 'waiting', created_at = :now, next_poll_at = :now, settled_at = NULL, outcome = NULL,
    failures = 0, watchers = :client
WHERE seq = :seq AND state IN ('waiting', 'abandoned') AND next_poll_at IS NULL
"""

_MOST_NAMED = 32
"""Watchers that a task names: an entry of an index has room for no more. Who is not named waits with the others."""

# A further client watches the task, whose first poll may not be put off as far for it as for the others. Who does not
# wait any more may stay named: it makes no difference to the others. Who is named already joins at no cost: to find out
# who else waits, all of its callbacks are read. Its readers stay. In one order, as the same clients have one turn.
WATCH_TASK = f"""
UPDATE tasks SET next_poll_at = CASE WHEN polls = 0 THEN least(next_poll_at, :first_poll_at) ELSE next_poll_at END,
    watchers = (SELECT string_agg(client, ',' ORDER BY client) FROM (
        SELECT client FROM callbacks WHERE task_seq = :seq AND state = 'waiting' UNION
        SELECT unnest(string_to_array(watchers, ',')) COLLATE "C" WHERE read_until IS NOT NULL
        ORDER BY client LIMIT {_MOST_NAMED}) AS who)
WHERE seq = :seq AND next_poll_at IS NOT NULL AND :client <> ALL (string_to_array(watchers, ','))
RETURNING seq, upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

# For a task of which neither the upstream nor an earlier registration has told it.
NAME_MODEL = "UPDATE tasks SET model = :model WHERE seq = :seq AND model IS NULL"

# Reading for the API.

SELECT_CALLBACK = f"""
SELECT {_CALLBACK}, {_TASK} FROM callbacks AS c CROSS JOIN {_TASK_OF.format("c")}
WHERE c.id = :id AND c.client = coalesce(:client, c.client)
"""  # noqa: S608 - as above


def select_callbacks(*, state: CallbackState | None, by_task: bool, every_client: bool = False) -> str:
    """Build the list query: from a task's callbacks, or along the client's, or everybody's, newest first.

    For everybody's in one state there is no index: it is asked for each client.
    """
    if by_task:
        return _select_a_tasks(state, every_client=every_client)
    where = ["seq < :before"]
    where += [] if every_client else ["client = :client"]
    where += [] if state is None else [f"state = '{state.value}'"]
    return f"""
    SELECT {_CALLBACK}, {_TASK} FROM (
        SELECT * FROM callbacks WHERE {" AND ".join(where)} ORDER BY seq DESC LIMIT :limit) AS c
    CROSS JOIN {_TASK_OF.format("c")}
    ORDER BY c.seq DESC
    """  # noqa: S608 - constants, and a value of an enum


def _select_a_tasks(state: CallbackState | None, *, every_client: bool) -> str:
    where = ["task_seq = t.seq", "seq < :before"]
    where += [] if every_client else ["client = :client"]
    where += [] if state is None else [f"state = '{state.value}'"]
    return f"""
    SELECT {_CALLBACK}, {_TASK} FROM (SELECT * FROM tasks WHERE task_id = :task_id OFFSET 0) AS t
    CROSS JOIN LATERAL (SELECT * FROM callbacks WHERE {" AND ".join(where)} OFFSET 0) AS c
    ORDER BY c.seq DESC LIMIT :limit
    """  # noqa: S608 - as above


# The outcome where it is small; what is large is asked for by itself, once there is room for it.
SELECT_TASK = f"""
SELECT {_TASK}, CASE WHEN length(t.outcome) <= {SMALL} THEN t.outcome END, coalesce(length(t.outcome), 0)
FROM (SELECT * FROM tasks WHERE task_id = :task_id OFFSET 0) AS t
WHERE EXISTS (
    SELECT FROM callbacks WHERE task_seq = t.seq AND client = coalesce(CAST(:client AS text), client) OFFSET 0)
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

SELECT_ATTEMPTS = f"SELECT {_ATTEMPT} FROM attempts WHERE callback_seq = $1 ORDER BY number"  # noqa: S608 - as above

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
    (SELECT upstream FROM tasks WHERE next_poll_at IS NOT NULL ORDER BY upstream LIMIT 1)
    UNION ALL SELECT next.upstream FROM named CROSS JOIN LATERAL (
        SELECT upstream FROM tasks WHERE upstream > named.upstream AND next_poll_at IS NOT NULL
        ORDER BY upstream LIMIT 1) AS next)
SELECT upstream FROM named
"""
COUNT_POLLED_TASKS = "SELECT count(*) FROM tasks WHERE upstream = $1 AND next_poll_at IS NOT NULL"

COUNT_CALLBACKS = "SELECT state, count(*) FROM callbacks GROUP BY state"

# Counting, so many rows at a time along an index.

_POLLED = "next_poll_at IS NOT NULL", "upstream, watchers, next_poll_at, seq", ("", "", 0, 0)
_OWED = "state = 'pending'", "client, receiver, next_attempt_at, seq", ("", "", 0, 0)
_DEAD = "state = 'dead'", "client, ended_at, seq", ("", 0, 0)
COUNT_WAITING = counted("upstream", "next_poll_at", "tasks", *_POLLED)
COUNT_PENDING = counted("''", "next_attempt_at", "callbacks", *_OWED)
COUNT_DEAD = counted("''", "ended_at", "callbacks", *_DEAD)

# Cancelling and redelivering.

# What is returned is what stands once both are locked, however long that took.
LOCK_STATE = """
SELECT c.seq, c.task_seq, c.state FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
WHERE c.id = :id AND c.client = coalesce(:client, c.client)
FOR NO KEY UPDATE OF t, c
"""

# First of all where what is done depends on who waits for a task, which a later statement then finds out. For no key:
# who deletes a task waits until its row is free of this, and this of that.
LOCK_TASKS = f"""
SELECT t.seq FROM {given("wanted", "seq")} JOIN tasks AS t ON t.seq = wanted.seq
ORDER BY t.seq FOR NO KEY UPDATE OF t
"""  # noqa: S608 - as above

CANCEL_CALLBACK = """
UPDATE callbacks SET state = 'cancelled', cancelled = seq, ended_at = $1, next_attempt_at = NULL
WHERE seq = $2 AND state IN ('waiting', 'pending')
"""

_NOBODY_WAITS = """
NOT EXISTS (SELECT FROM callbacks WHERE task_seq = tasks.seq AND callbacks.state = 'waiting' OFFSET 0)"""

# Nobody waits for these tasks any more: stop asking. A new registration revives one.
IDLE_TASKS = f"""
UPDATE tasks SET next_poll_at = NULL
FROM {given("idle", "seq", "now")}
WHERE tasks.seq = idle.seq AND next_poll_at IS NOT NULL AND coalesce(read_until, 0) <= idle.now AND {_NOBODY_WAITS}
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
    ORDER BY client, ended_at, seq LIMIT :limit FOR NO KEY UPDATE)
{_REDELIVER} WHERE seq = ANY (ARRAY(SELECT seq FROM dead)) RETURNING client, receiver
"""  # noqa: S608 - as above

# Polling.

# The claimed ones, an array of their seqs, are passed over.
SELECT_DUE_TASKS = f"""
SELECT seq, {_DUE_TASK} FROM tasks
WHERE upstream = $1 AND watchers = $2 AND next_poll_at IS NOT NULL
    AND seq NOT IN (SELECT * FROM unnest(CAST($3 AS bigint[])))
ORDER BY upstream, watchers, next_poll_at, seq LIMIT $4
"""  # noqa: S608 - as above

# Who watches what: from one group to the next along the index, with its earliest.
SELECT_NEXT_WATCHERS = """
SELECT upstream, watchers, next_poll_at FROM tasks
WHERE next_poll_at IS NOT NULL AND (upstream, watchers) > ($1, $2)
ORDER BY upstream, watchers, next_poll_at, seq LIMIT 1
"""

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

# A cancelled last callback may have idled the task while it was polled: then it stays so. A record is kept for readers.
RESCHEDULE_TASKS = f"""
UPDATE tasks SET polls = polls + 1, last_polled_at = poll.polled_at, last_error = poll.error,
    failures = CASE WHEN poll.error IS NULL THEN 0 ELSE failures + 1 END,
    next_poll_at = CASE WHEN tasks.next_poll_at IS NULL THEN NULL ELSE poll.next_poll_at END,
    born_at = coalesce(poll.born_at, tasks.born_at), model = coalesce(poll.model, tasks.model),
    record = CASE WHEN tasks.read_until IS NULL THEN NULL ELSE coalesce(poll.record, tasks.record) END
FROM (SELECT * FROM {
    given("new", "seq", "polled_at", "next_poll_at", "error text", "born_at", "model text", "record bytea")
} ORDER BY seq) AS poll
WHERE tasks.seq = poll.seq AND tasks.state = 'waiting'
"""  # noqa: S608 - as above

POLL_TASKS_NOW = f"""
UPDATE tasks SET next_poll_at = least(next_poll_at, late.now)
FROM (SELECT * FROM {given("given", "seq", "now")} ORDER BY seq) AS late
WHERE tasks.seq = late.seq AND next_poll_at IS NOT NULL AND EXISTS (
    SELECT FROM callbacks
    WHERE task_seq = tasks.seq AND callbacks.state = 'waiting' AND expires_at <= late.now OFFSET 0)
RETURNING upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

# Settling: the webhooks first, then the task, if nobody waits any more. A callback waits only while its task does.
# A body is stored where it cannot be made from its task's row: where the callback was given up. How the upstream has
# ended a task, however large that is and for however many, stands in its row once, as the outcome and, where a webhook
# of format record is owed, as that one's body: its callbacks' bodies are empty.

OWE_WEBHOOKS = f"""
UPDATE callbacks AS c SET state = 'pending', next_attempt_at = settled.deliver_at,
    body = coalesce(CASE WHEN c.format = 'record' THEN settled.record
        ELSE settled.head || convert_to(c.id, 'UTF8') || settled.middle || c.metadata || settled.tail END, '')
FROM {
    given("settled", "task_seq", "expired_by", "deliver_at", "head bytea", "middle bytea", "tail bytea", "record bytea")
}
WHERE c.task_seq = settled.task_seq AND c.state = 'waiting' AND c.expires_at <= settled.expired_by
RETURNING c.task_seq, c.id, c.client, c.receiver, c.format
"""  # noqa: S608 - as above

# The same for one callback registered after the upstream had ended its task.
OWE_WEBHOOK = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :deliver_at, body = '' WHERE id = :id AND state = 'waiting'
"""

# And of format record: where no body of that format was kept, it is made of the outcome, and no other comes later.
OWE_RECORD = "UPDATE tasks SET record = '' WHERE seq = $1 AND record IS NULL"

SETTLE_TASKS = f"""
UPDATE tasks SET state = settled.state, outcome = settled.outcome, record = settled.record, settled_at = settled.at,
    next_poll_at = NULL, polls = tasks.polls + settled.polls,
    last_polled_at = CASE WHEN settled.polls > 0 THEN settled.at ELSE last_polled_at END,
    last_error = CASE WHEN settled.polls > 0 THEN NULL ELSE last_error END, failures = 0
FROM (SELECT * FROM {
    given("ended", "seq", "state text", "outcome bytea", "at", "polls", "record bytea")
} ORDER BY seq) AS settled
WHERE tasks.seq = settled.seq AND tasks.state = 'waiting'
AND (settled.polls > 0 OR coalesce(tasks.read_until, 0) <= settled.at) AND {_NOBODY_WAITS}
"""  # noqa: S608 - as above

# From the few that have expired to their tasks. The first parameter keeps it from looking again and again through those
# that have expired for another upstream.
SELECT_EXPIRED = """
SELECT seq, task_id, min(expires_at), last_polled_at, failures FROM (
    SELECT t.seq, t.task_id, c.expires_at, t.last_polled_at, t.failures
    FROM (SELECT task_seq, expires_at FROM callbacks
        WHERE state = 'waiting' AND expires_at BETWEEN $1 AND $2 ORDER BY expires_at OFFSET 0) AS c
    CROSS JOIN LATERAL (SELECT * FROM tasks WHERE seq = c.task_seq AND upstream = $3 OFFSET 0) AS t
    LIMIT $4) AS expired
GROUP BY seq, task_id, last_polled_at, failures ORDER BY min(expires_at)
"""

SELECT_NEXT_EXPIRY = "SELECT min(expires_at) FROM callbacks WHERE state = 'waiting' AND expires_at > $1"

# Delivering.

# Where a body is: with its callback, or else for format record with its task; or the outcome that it is made of, within
# which a text in a text may be twice as long. And it itself, only where it is small: the length of a value is known
# without reading it.
_OF_TASK = "length(c.body) = 0 AND c.format = 'record' AND coalesce(length(t.record), 0) > 0"
_MADE = f"length(c.body) = 0 AND NOT ({_OF_TASK})"
BODY = f"""
CASE WHEN {_OF_TASK} THEN length(t.record)
    WHEN {_MADE} THEN CASE WHEN c.format = 'record' THEN 2 ELSE 1 END * length(t.outcome)
    ELSE length(c.body) END,
CASE WHEN {_OF_TASK} THEN CASE WHEN length(t.record) <= {SMALL} THEN t.record END
    WHEN length(c.body) <= {SMALL} THEN c.body END,
CASE WHEN {_MADE} AND length(t.outcome) <= {SMALL} THEN t.outcome END, t.state, t.settled_at, c.metadata, c.format"""
"""A due webhook's columns after its own: how large it is, what it is made of."""

# The same of one webhook, and in which column its task has it. While it waited for room it may have been cancelled.
SELECT_BODY = f"""
SELECT t.seq, c.body, CASE WHEN {_OF_TASK} THEN 'record' WHEN {_MADE} THEN 'outcome' END, t.state, t.settled_at,
    c.metadata, c.format
FROM callbacks AS c CROSS JOIN {_TASK_OF.format("c")} WHERE c.seq = $1 AND c.state = 'pending'
"""  # noqa: S608 - as above

# A callback that was cancelled and pruned during the attempt takes its log with it; nor has a claim that has lapsed any.
# Locked, so that none is deleted before its attempt is there to go with it.
INSERT_ATTEMPTS = f"""
INSERT INTO attempts (callback_seq, {_ATTEMPT})
SELECT DISTINCT ON (c.seq, made.number) c.seq, {", ".join(f"made.{name}" for name in Attempt.__struct_fields__)}
FROM {
    given(
        "made",
        "callback_seq",
        "number",
        "started_at",
        "duration_ms",
        "status_code",
        "error text",
        "result text",
        "excerpt text",
        "fence",
        place=True,
    )
}
CROSS JOIN LATERAL (
    SELECT seq FROM callbacks WHERE seq = made.callback_seq AND fence = made.fence FOR KEY SHARE) AS c
ORDER BY c.seq, made.number, made.place DESC
ON CONFLICT (callback_seq, number) DO UPDATE SET {
    ", ".join(f"{name} = excluded.{name}" for name in Attempt.__struct_fields__[1:])
}
"""  # noqa: S608 - as above

# A redelivery since the claim fences this off, but for the good news. A claim that has lapsed and was taken by another
# fences off all.
RECORD_ATTEMPTS = f"""
UPDATE callbacks SET state = made.state, attempts = greatest(attempts, made.number),
    budget_used = budget_used + made.counts, next_attempt_at = made.next_attempt_at, last_error = made.error,
    delivered_at = CASE WHEN made.state = 'delivered' THEN made.ended_at END,
    ended_at = CASE WHEN made.state IN ('delivered', 'dead') THEN made.ended_at END, claimed_until = 0
FROM (SELECT * FROM {
    given(
        "new",
        "seq",
        "number",
        "error text",
        "state text",
        "next_attempt_at",
        "ended_at",
        "counts",
        "redeliveries",
        "fence",
    )
} ORDER BY seq) AS made
WHERE callbacks.seq = made.seq AND callbacks.fence = made.fence AND callbacks.state = 'pending'
AND (callbacks.redeliveries = made.redeliveries OR made.state = 'delivered')
"""  # noqa: S608 - as above

# What was fenced off by a redelivery, or cancelled meanwhile, was made all the same; its claim has ended.
COUNT_ATTEMPTS = f"""
UPDATE callbacks SET attempts = greatest(attempts, made.number), claimed_until = 0
FROM (SELECT * FROM {given("new", "seq", "number", "fence")} ORDER BY seq) AS made
WHERE callbacks.seq = made.seq AND callbacks.fence = made.fence
AND (callbacks.attempts < made.number OR callbacks.claimed_until > 0)
"""  # noqa: S608 - as above

# Keeping house.

# A part at a time; what another replica deletes is left to it.
PRUNE_CALLBACKS = """
WITH old AS MATERIALIZED (
    SELECT seq FROM (
        (SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND state = 'delivered' AND ended_at < :ended_before
            ORDER BY state, ended_at LIMIT :limit)
        UNION ALL
        (SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND state = 'cancelled' AND ended_at < :ended_before
            ORDER BY state, ended_at LIMIT :limit)
        UNION ALL
        (SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND state = 'dead' AND ended_at < :dead_before
            ORDER BY state, ended_at LIMIT :limit)) AS any_state
    LIMIT :limit),
gone AS MATERIALIZED (
    SELECT c.seq FROM old CROSS JOIN LATERAL (SELECT 1) AS x JOIN callbacks AS c ON c.seq = old.seq
    ORDER BY c.seq FOR UPDATE OF c SKIP LOCKED)
DELETE FROM callbacks WHERE seq = ANY (ARRAY(SELECT seq FROM gone)) RETURNING task_seq
"""

PRUNE_TASKS = f"""
DELETE FROM tasks USING {given("old", "seq")}
WHERE tasks.seq = old.seq AND read_until IS NULL AND NOT EXISTS (
    SELECT FROM callbacks WHERE task_seq = tasks.seq OFFSET 0)
"""  # noqa: S608 - as above

# The database itself.

SELECT_META = "SELECT value FROM meta WHERE key = $1"
INSERT_META = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
SWAP_META = "UPDATE meta SET value = $1 WHERE key = $2 AND value = $3"
PROBE = "INSERT INTO meta (key, value) VALUES ('probe', '') ON CONFLICT (key) DO UPDATE SET value = excluded.value"
