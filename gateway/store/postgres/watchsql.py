"""The statements of watched reads: ``dialect.ReadStatements``."""

from gateway.core.memory import SMALL
from gateway.core.reads import END_TOLD
from gateway.store.copying.tables import MOST_WATCHERS
from gateway.store.postgres.statements import TASK, given

# The record where it is small, and the outcome where there is no record to answer from.
SELECT_READ_TASK = f"""
SELECT {TASK}, CASE WHEN coalesce(length(t.record), 0) = 0 AND length(t.outcome) <= {SMALL} THEN t.outcome END,
    coalesce(length(t.outcome), 0), t.watchers, t.read_until,
    CASE WHEN length(t.record) BETWEEN 1 AND {SMALL} THEN t.record END, coalesce(length(t.record), 0),
    t.told_at, t.denied_at
FROM tasks AS t WHERE t.task_id = $1 AND t.upstream = $2
"""  # noqa: S608 - the interpolated parts are constants

_WATCHED = ("upstream text", "task_id text", "client text", "at", "read_until", "next_poll_at", "told", "born_at",
            "model text", "record bytea", "asked_at")  # fmt: skip

_NEWS = """excluded.record IS NOT NULL AND (t.record IS NULL OR (
        excluded.polls > 0 AND (SELECT asked_at FROM numbered WHERE seq = excluded.seq) >= coalesce(t.told_at, 0)))"""

# Nothing becomes of a task that the upstream has ended; one that was given up begins anew where the upstream has just
# told that it runs (``told``). A task that nobody waited for is watched from now on, as with a new callback. In one
# order, as the same clients have one turn. What was remembered of it (not ``told``) is older than a record that stands,
# and so is what was asked for before that was told.
# What stands is locked first, and has its own seq here: a number that is
# drawn in vain would make it look newer than it is what was registered last.
WATCH_READ_TASKS = f"""
WITH new AS MATERIALIZED (SELECT * FROM {given("new", *_WATCHED, place=True)}),
known AS MATERIALIZED (
    SELECT locked.seq FROM (
        SELECT t.seq FROM new CROSS JOIN LATERAL (
            SELECT seq FROM tasks WHERE task_id = new.task_id AND upstream = new.upstream OFFSET 0) AS t
        ORDER BY t.seq) AS found
    CROSS JOIN LATERAL (SELECT seq FROM tasks WHERE tasks.seq = found.seq FOR NO KEY UPDATE) AS locked),
numbered AS MATERIALIZED (
    SELECT new.*, coalesce((
        SELECT seq FROM tasks WHERE task_id = new.task_id AND upstream = new.upstream), nextval('tasks_seq_seq')) AS seq
    FROM new WHERE (SELECT count(*) FROM known) >= 0 ORDER BY place)
INSERT INTO tasks AS t (seq, upstream, task_id, watchers, created_at, read_until, next_poll_at, polls, last_polled_at,
    born_at, model, record, told_at)
SELECT seq, upstream, task_id, client, at, read_until, next_poll_at, told, CASE WHEN told > 0 THEN at END, born_at,
    model, record, CASE WHEN record IS NOT NULL THEN at END
FROM numbered ORDER BY task_id, upstream
ON CONFLICT (task_id, upstream) DO UPDATE SET
    watchers = CASE WHEN t.next_poll_at IS NULL THEN excluded.watchers
        WHEN excluded.watchers = ANY (string_to_array(t.watchers, ',')) THEN t.watchers
        ELSE (SELECT string_agg(name, ',' ORDER BY name) FROM (
            SELECT unnest(string_to_array(t.watchers, ',')) COLLATE "C" AS name UNION SELECT excluded.watchers
            ORDER BY name LIMIT {MOST_WATCHERS}) AS who) END,
    created_at = CASE WHEN t.next_poll_at IS NULL THEN excluded.created_at ELSE t.created_at END,
    failures = CASE WHEN t.next_poll_at IS NULL OR excluded.polls > 0 THEN 0 ELSE t.failures END,
    last_error = CASE WHEN excluded.polls > 0 THEN NULL ELSE t.last_error END,
    last_polled_at = coalesce(excluded.last_polled_at, t.last_polled_at), polls = t.polls + excluded.polls,
    next_poll_at = coalesce(t.next_poll_at, excluded.next_poll_at),
    read_until = greatest(t.read_until, excluded.read_until),
    born_at = coalesce(excluded.born_at, t.born_at), model = coalesce(excluded.model, t.model),
    record = CASE WHEN {_NEWS} THEN excluded.record ELSE t.record END,
    told_at = CASE WHEN {_NEWS} THEN excluded.told_at ELSE t.told_at END,
    denied_at = CASE WHEN excluded.polls = 0 THEN t.denied_at END,
    state = 'waiting', settled_at = NULL, outcome = NULL
WHERE t.state = 'waiting' OR (t.state = 'abandoned' AND excluded.polls > 0)
RETURNING task_id, seq, upstream, watchers, next_poll_at, told_at
"""  # noqa: S608 - as above

# More is known of a polled task than its polls have told: it is due now, also where it was before, so that a poll that
# was sent by then does not count for it. Its end is told of by that.
POLL_AGAIN = f"""
UPDATE tasks SET next_poll_at = :now, record = coalesce(CAST(:record AS bytea), record),
    read_until = CASE WHEN CAST(:record AS bytea) IS NULL THEN read_until ELSE greatest(read_until, :read_until) END,
    told_at = CASE WHEN CAST(:record AS bytea) IS NULL THEN told_at ELSE {END_TOLD} END
WHERE upstream = :upstream AND task_id = :task_id AND next_poll_at IS NOT NULL
RETURNING seq, upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

COUNT_READ_TASKS = "SELECT count(*) FROM tasks WHERE read_until IS NOT NULL"

# Through all of them: a tenth of a second. So one at a time, and for a client once until some have gone; then once more
# only where the last count would leave it no place.
COUNT_READ_TASKS_FOR = """
SELECT count(*) FROM tasks WHERE read_until IS NOT NULL AND $1 = ANY (string_to_array(watchers, ','))
"""

SELECT_RUNNING = "SELECT 1 FROM tasks WHERE seq = $1 AND state = 'waiting'"

# Whose readers have gone since the last ones that were found.
SELECT_UNREAD = """
SELECT read_until, seq FROM tasks
WHERE read_until IS NOT NULL AND read_until <= $1 AND (read_until, seq) > ($2, $3) ORDER BY read_until, seq LIMIT $4
"""
SELECT_NEXT_UNREAD = "SELECT min(read_until) FROM tasks WHERE read_until IS NOT NULL AND read_until > $1"

# Of tasks that callbacks still wait for, once IDLE_TASKS has been there; and who has been read since it was looked for
# keeps its readers. So spelt that it does not look like a question for the index of readers.
LEAVE_TASKS = f"""
UPDATE tasks SET read_until = NULL, record = NULL
FROM {given("unread", "seq", "now")}
WHERE tasks.seq = ANY (ARRAY[unread.seq]) AND next_poll_at IS NOT NULL AND coalesce(read_until, 0) <= unread.now
"""  # noqa: S608 - as above

# What others have locked is left to them, or to the next look.
SELECT_LONG_UNREAD = """
SELECT seq FROM tasks WHERE read_until IS NOT NULL AND read_until < $1 ORDER BY read_until, seq LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""

# A record is kept for a webhook that it is the body of, and where it tells what the outcome does not.
END_WATCHES = f"""
UPDATE tasks SET read_until = NULL, record = CASE
    WHEN state IN ('success', 'fail') AND (coalesce(told_at, 0) = {END_TOLD} OR EXISTS (
        SELECT FROM callbacks WHERE task_seq = tasks.seq AND format = 'record' OFFSET 0)) THEN record END
FROM {given("unread", "seq", "read_before")}
WHERE tasks.seq = ANY (ARRAY[unread.seq]) AND coalesce(read_until, 0) < unread.read_before
"""  # noqa: S608 - as above
