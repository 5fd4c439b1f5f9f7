"""Every statement the SQLite store runs, named. Rows come out in the column orders that ``rows.py`` unpacks."""

from gateway.model import CallbackState

# Registering: three steps in one transaction, each over all registrations that wait.

INSERT_TASK = """
INSERT INTO tasks (upstream, task_id, created_at, next_poll_at, model)
VALUES (:upstream, :task_id, :created_at, :first_poll_at, :model)
ON CONFLICT (upstream, task_id) DO NOTHING
"""

# The same client, task and URL again does nothing: SELECT_REGISTERED then finds the one that stands.
INSERT_CALLBACK = """
INSERT INTO callbacks (id, client, task_seq, url, receiver, metadata, timeout_s, created_at, expires_at)
SELECT :id, :client, seq, :url, :receiver, :metadata, :timeout_s, :created_at, :expires_at
FROM tasks WHERE upstream = :upstream AND task_id = :task_id
ON CONFLICT (task_seq, client, url, cancelled) DO NOTHING
"""

_CALLBACK = """
c.seq, c.id, c.client, c.url, c.metadata, c.timeout_s, c.state, c.created_at, c.expires_at, c.attempts,
c.next_attempt_at, c.delivered_at, c.last_error"""

_TASK = """
t.seq, t.upstream, t.task_id, t.state, t.polls, t.created_at, t.last_polled_at, t.next_poll_at, t.last_error,
t.settled_at, t.born_at, t.model"""

# One parameter: a JSON array of [upstream, task_id, client, url]. As many rows, in its order.
SELECT_REGISTERED = f"""
SELECT {_CALLBACK}, {_TASK}
FROM json_each(?) AS wanted
CROSS JOIN tasks AS t ON t.upstream = wanted.value ->> 0 AND t.task_id = wanted.value ->> 1
CROSS JOIN callbacks AS c
    ON c.task_seq = t.seq AND c.client = wanted.value ->> 2 AND c.url = wanted.value ->> 3 AND c.cancelled = 0
ORDER BY wanted.key
"""  # noqa: S608 - the interpolated parts are the constants above

# A task that nobody watched any more, or that was given up: poll it again for the new callback's sake.
REVIVE_TASK = """
UPDATE tasks SET state = 'waiting', created_at = :now, next_poll_at = :first_poll_at, settled_at = NULL, outcome = NULL,
    failures = 0
WHERE seq = :seq AND next_poll_at IS NULL AND state IN ('waiting', 'abandoned')
"""

SELECT_OUTCOME = "SELECT state, outcome, settled_at FROM tasks WHERE seq = ?"

# Reading for the API.

SELECT_CALLBACK = f"""
SELECT {_CALLBACK}, {_TASK} FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
WHERE c.id = ? AND c.client = ?
"""  # noqa: S608 - the interpolated parts are the constants above


def select_callbacks(*, state: CallbackState | None, by_task: bool) -> str:
    """Build the list query: from a task's few callbacks, or along the client's, newest first."""
    source = "callbacks AS c CROSS JOIN tasks AS t ON t.seq = c.task_seq"
    where = ["c.client = :client", "c.seq < :before"]
    if by_task:
        source = "tasks AS t CROSS JOIN callbacks AS c ON c.task_seq = t.seq"
        # The plus signs keep SQLite from going through all of the client's callbacks after all.
        where = ["t.task_id = :task_id", "+c.client = :client", "+c.seq < :before"]
    if state is not None:
        where.append(f"c.state = '{state.value}'")
    return f"""
    SELECT {_CALLBACK}, {_TASK} FROM {source}
    WHERE {" AND ".join(where)} ORDER BY c.seq DESC LIMIT :limit
    """  # noqa: S608 - constants, and a value of an enum


SELECT_TASK = f"""
SELECT {_TASK}, t.outcome FROM tasks AS t
WHERE t.task_id = :task_id AND EXISTS (
    SELECT 1 FROM callbacks AS c WHERE c.task_seq = t.seq AND c.client = :client)
ORDER BY t.seq DESC LIMIT 1
"""  # noqa: S608 - the interpolated part is a constant above

SELECT_ATTEMPTS = """
SELECT number, started_at, duration_ms, status_code, error, result, excerpt FROM attempts
WHERE callback_seq = ? ORDER BY number
"""

SELECT_STATE = "SELECT seq, task_seq, state FROM callbacks WHERE id = ? AND client = ?"

CANCEL_CALLBACK = """
UPDATE callbacks SET state = 'cancelled', cancelled = seq, ended_at = ?, next_attempt_at = NULL
WHERE seq = ? AND state IN ('waiting', 'pending')
"""

# Nobody waits for this task any more: stop asking. A new registration revives it.
IDLE_TASK = """
UPDATE tasks SET next_poll_at = NULL
WHERE seq = :seq AND state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM callbacks WHERE task_seq = :seq AND state = 'waiting')
"""

_REDELIVER = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :now, budget_used = 0, redeliveries = redeliveries + 1,
    ended_at = NULL, delivered_at = NULL
"""

REDELIVER_CALLBACK = f"{_REDELIVER} WHERE seq = :seq AND state IN ('pending', 'delivered', 'dead')"

REDELIVER_DEAD = f"""
{_REDELIVER} WHERE client = :client AND state = 'dead' AND ended_at IS NOT NULL
AND ended_at >= :since AND ended_at < :until
"""

# Polling.

# The claimed ones, a JSON array of their seqs, are passed over in the index: their rows are not read.
SELECT_DUE_TASKS = """
SELECT seq, upstream, task_id, created_at, born_at, model, polls, failures, last_polled_at, next_poll_at FROM tasks
WHERE upstream = ? AND next_poll_at IS NOT NULL AND seq NOT IN (SELECT value FROM json_each(?))
ORDER BY next_poll_at LIMIT ?
"""

# A cancelled last callback may have idled the task while it was polled: then it stays so.
RESCHEDULE_TASK = """
UPDATE tasks SET polls = polls + 1, last_polled_at = :polled_at, last_error = :error,
    failures = iif(:error IS NULL, 0, failures + 1),
    next_poll_at = iif(next_poll_at IS NULL, NULL, :next_poll_at),
    born_at = coalesce(:born_at, born_at), model = coalesce(:model, model)
WHERE seq = :seq AND state = 'waiting'
"""

POLL_NOW = "UPDATE tasks SET next_poll_at = min(next_poll_at, ?) WHERE seq = ? AND next_poll_at IS NOT NULL"

# Settling: the webhooks first, while the task still waits, then the task, if nobody waits any more.

OWE_WEBHOOKS = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :deliver_at,
    body = CAST(:head || id || :middle || metadata || :tail AS BLOB)
WHERE task_seq = :seq AND state = 'waiting' AND expires_at <= :expired_by
AND EXISTS (SELECT 1 FROM tasks WHERE seq = :seq AND state = 'waiting')
"""

# The same for one callback registered after its task had settled.
OWE_WEBHOOK = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :deliver_at,
    body = CAST(:head || id || :middle || metadata || :tail AS BLOB)
WHERE id = :id AND state = 'waiting'
"""

SETTLE_TASK = """
UPDATE tasks SET state = :state, outcome = :outcome, settled_at = :settled_at, next_poll_at = NULL,
    polls = polls + :polls, last_polled_at = iif(:polls > 0, :settled_at, last_polled_at),
    last_error = iif(:polls > 0, NULL, last_error), failures = 0
WHERE seq = :seq AND state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM callbacks WHERE task_seq = :seq AND state = 'waiting')
"""

# CROSS JOIN: from the few that have expired to their tasks, not from every task the upstream ever had.
SELECT_EXPIRED = """
SELECT seq, task_id, min(expires_at), last_polled_at, failures FROM (
    SELECT t.seq, t.task_id, c.expires_at, t.last_polled_at, t.failures
    FROM callbacks AS c CROSS JOIN tasks AS t ON t.seq = c.task_seq
    WHERE c.state = 'waiting' AND c.expires_at <= ? AND t.upstream = ? ORDER BY c.expires_at LIMIT ?)
GROUP BY seq ORDER BY min(expires_at)
"""

SELECT_NEXT_EXPIRY = "SELECT min(expires_at) FROM callbacks WHERE state = 'waiting' AND expires_at > ?"

# What is learned. The slots make a ring: the newest duration of a model takes the place of its oldest.

INSERT_DURATION = """
INSERT INTO durations (upstream, model, slot, seq, duration_ms) VALUES (:upstream, :model, :slot, :seq, :duration_ms)
ON CONFLICT (upstream, model, slot) DO UPDATE SET seq = excluded.seq, duration_ms = excluded.duration_ms
"""

SELECT_DURATIONS = "SELECT model, seq, duration_ms FROM durations WHERE upstream = ? ORDER BY seq"

# Delivering.

# As with tasks; here it spares reading the bodies of all that is in flight for each one that ends. All that is asked
# about a row that is passed over stands in the index: thousands that wait for a hanging receiver cost little.
SELECT_DUE_CALLBACKS = """
SELECT seq, id, client, url, receiver, body, attempts, budget_used, redeliveries, next_attempt_at FROM callbacks
WHERE state = 'pending' AND seq NOT IN (SELECT value FROM json_each(:claimed))
AND receiver NOT IN (SELECT value FROM json_each(:refused)) AND (:retries OR budget_used = 0)
ORDER BY next_attempt_at LIMIT :limit
"""

# A callback that was cancelled and pruned during the attempt takes its log with it.
INSERT_ATTEMPT = """
INSERT OR REPLACE INTO attempts (callback_seq, number, started_at, duration_ms, status_code, error, result, excerpt)
SELECT seq, :number, :started_at, :duration_ms, :status_code, :error, :result, :excerpt FROM callbacks WHERE seq = :seq
"""

# A redelivery since the claim fences this off, but for the good news.
RECORD_ATTEMPT = """
UPDATE callbacks SET state = :state, attempts = max(attempts, :number), budget_used = budget_used + :counts,
    next_attempt_at = :next_attempt_at, last_error = :error,
    delivered_at = iif(:state = 'delivered', :ended_at, NULL),
    ended_at = iif(:state IN ('delivered', 'dead'), :ended_at, NULL)
WHERE seq = :seq AND state = 'pending' AND (redeliveries = :redeliveries OR :state = 'delivered')
"""

COUNT_ATTEMPT = "UPDATE callbacks SET attempts = max(attempts, :number) WHERE seq = :seq"

# Keeping house.

PRUNE_CALLBACKS = """
DELETE FROM callbacks WHERE seq IN (
    SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND (
        (state IN ('delivered', 'cancelled') AND ended_at < :ended_before)
        OR (state = 'dead' AND ended_at < :dead_before))
    LIMIT :limit)
RETURNING task_seq
"""

PRUNE_TASK = """
DELETE FROM tasks WHERE seq = :seq AND NOT EXISTS (SELECT 1 FROM callbacks WHERE task_seq = :seq)
"""

SELECT_BACKLOG = "SELECT count(*), min(next_attempt_at) FROM callbacks WHERE state = 'pending'"

# The database itself.

SELECT_META = "SELECT value FROM meta WHERE key = ?"
UPSERT_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
INSERT_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
