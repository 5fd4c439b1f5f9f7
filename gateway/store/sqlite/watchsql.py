"""The statements of watched reads: ``dialect.ReadStatements``.

Called by ``watches.py``.
"""

from gateway.core.memory import SMALL
from gateway.core.reads import END_TOLD
from gateway.store.sqlite.columns import TASK as _TASK

# The record where it is small, and the outcome where there is no record to answer from.
SELECT_READ_TASK = f"""
SELECT {_TASK}, iif(coalesce(length(t.record), 0) = 0 AND length(t.outcome) <= {SMALL}, t.outcome, NULL),
    coalesce(length(t.outcome), 0), t.watchers, t.read_until,
    iif(length(t.record) BETWEEN 1 AND {SMALL}, t.record, NULL), coalesce(length(t.record), 0), t.told_at, t.denied_at
FROM tasks AS t WHERE t.task_id = ? AND t.upstream = ?
"""  # noqa: S608 - the interpolated parts are constants

_NEWS = """excluded.record IS NOT NULL AND (record IS NULL OR (excluded.polls AND coalesce(told_at, 0) <= (
        SELECT asked_at FROM new WHERE task_id = excluded.task_id AND upstream = excluded.upstream)))"""

# Nothing becomes of a task that the upstream has ended; one that was given up begins anew where the upstream has just
# told that it runs (``told``). A task that nobody waited for is watched from now on, as with a new callback. In one
# order, as the same clients have one turn. What was remembered of it (not ``told``) is older than a record that stands,
# and so is what was asked for before that was told.
WATCH_READ_TASKS = f"""
WITH new (upstream, task_id, client, at, read_until, next_poll_at, told, born_at, model, record, asked_at) AS (VALUES ?)
INSERT INTO tasks (upstream, task_id, watchers, created_at, read_until, next_poll_at, polls, last_polled_at, born_at,
    model, record, told_at)
SELECT upstream, task_id, client, at, read_until, next_poll_at, told, iif(told, at, NULL), born_at, model, record,
    iif(record IS NULL, NULL, at)
FROM new WHERE upstream IS NOT NULL
ON CONFLICT (upstream, task_id) DO UPDATE SET
    watchers = iif(next_poll_at IS NULL, excluded.watchers, iif(
        instr(',' || watchers || ',', ',' || excluded.watchers || ',') > 0, watchers, (
            SELECT group_concat(name) FROM (
                SELECT value AS name FROM json_each('["' || replace(watchers, ',', '","') || '"]')
                UNION SELECT excluded.watchers ORDER BY name)))),
    created_at = iif(next_poll_at IS NULL, excluded.created_at, created_at),
    failures = iif(next_poll_at IS NULL OR excluded.polls, 0, failures),
    last_error = iif(excluded.polls, NULL, last_error),
    last_polled_at = coalesce(excluded.last_polled_at, last_polled_at), polls = polls + excluded.polls,
    next_poll_at = coalesce(next_poll_at, excluded.next_poll_at),
    read_until = max(coalesce(read_until, 0), excluded.read_until),
    born_at = coalesce(excluded.born_at, born_at), model = coalesce(excluded.model, model),
    record = iif({_NEWS}, excluded.record, record), told_at = iif({_NEWS}, excluded.told_at, told_at),
    denied_at = iif(excluded.polls, NULL, denied_at), state = 'waiting', settled_at = NULL, outcome = NULL
WHERE state = 'waiting' OR (state = 'abandoned' AND excluded.polls)
RETURNING task_id, seq, upstream, watchers, next_poll_at, told_at
"""  # noqa: S608 - as above

# More is known of a polled task than its polls have told: it is due now, also where it was before, so that a poll that
# was sent by then does not count for it. Its end is told of by that.
POLL_AGAIN = f"""
UPDATE tasks SET next_poll_at = :now, record = coalesce(:record, record),
    read_until = iif(:record IS NULL, read_until, max(coalesce(read_until, 0), :read_until)),
    told_at = iif(:record IS NULL, told_at, {END_TOLD})
WHERE upstream = :upstream AND task_id = :task_id AND next_poll_at IS NOT NULL
RETURNING seq, upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

COUNT_READ_TASKS = "SELECT count(*) FROM tasks INDEXED BY tasks_read WHERE read_until IS NOT NULL"

# Through all of them: a tenth of a second. So one at a time, and for a client once until some have gone; then once more
# only where the last count would leave it no place.
COUNT_READ_TASKS_FOR = """
SELECT count(*) FROM tasks INDEXED BY tasks_read
WHERE read_until IS NOT NULL AND instr(',' || watchers || ',', ',' || ? || ',') > 0
"""

SELECT_RUNNING = "SELECT 1 FROM tasks WHERE seq = ? AND state = 'waiting'"

# Whose readers have gone since the last ones that were found.
SELECT_UNREAD = """
SELECT read_until, seq FROM tasks INDEXED BY tasks_read
WHERE read_until <= ? AND (read_until, seq) > (?, ?) ORDER BY read_until, seq LIMIT ?
"""
SELECT_NEXT_UNREAD = "SELECT min(read_until) FROM tasks INDEXED BY tasks_read WHERE read_until > ?"

# Of those that callbacks still wait for, once IDLE_TASKS has been there.
LEAVE_TASKS = """
WITH gone (seq, now) AS (VALUES ?)
UPDATE tasks SET read_until = NULL, record = NULL
FROM gone WHERE tasks.seq = gone.seq AND tasks.next_poll_at IS NOT NULL AND tasks.read_until <= gone.now
"""

SELECT_LONG_UNREAD = "SELECT seq FROM tasks INDEXED BY tasks_read WHERE read_until < ? ORDER BY read_until LIMIT ?"

# A record is kept for a webhook that it is the body of, and where it tells what the outcome does not.
END_WATCHES = f"""
WITH gone (seq, read_before) AS (VALUES ?)
UPDATE tasks SET read_until = NULL, record = iif(
    state IN ('success', 'fail') AND (coalesce(told_at, 0) = {END_TOLD} OR EXISTS (
        SELECT 1 FROM callbacks WHERE task_seq = tasks.seq AND format = 'record')), record, NULL)
FROM gone WHERE tasks.seq = gone.seq AND tasks.read_until < gone.read_before
"""  # noqa: S608 - as above

MOVE_WATCHES = f"""
UPDATE tasks SET read_until = read_until + :step, told_at = iif(told_at < {END_TOLD}, told_at + :step, told_at)
WHERE read_until IS NOT NULL
"""  # noqa: S608 - as above
