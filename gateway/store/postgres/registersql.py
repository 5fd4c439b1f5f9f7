"""The statements of registering, a part of ``sql.py``, for its size: steps in one transaction, over all that wait."""

from gateway.store.copying.tables import MOST_WATCHERS
from gateway.store.dialect import NEW_CALLBACK
from gateway.store.postgres.statements import CALLBACK, TASK, given

# A task by its names, for each of some rows.
_NAMED_TASK = "LATERAL (SELECT * FROM tasks WHERE task_id = {0}.task_id AND upstream = {0}.upstream OFFSET 0) AS t"

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
    SELECT locked.task_id, locked.upstream
    FROM (SELECT t.seq FROM new CROSS JOIN {_NAMED_TASK.format("new")} ORDER BY t.seq) AS found
    CROSS JOIN LATERAL (SELECT * FROM tasks WHERE seq = found.seq FOR NO KEY UPDATE) AS locked),
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
ON CONFLICT (task_seq, hashtextextended(client, 0), hashtextextended(url, 0), hashtextextended(url, 1), cancelled)
DO NOTHING
RETURNING id, seq
"""  # noqa: S608 - as above

# As many rows as are wanted, in their places' order.
SELECT_REGISTERED = f"""
SELECT {CALLBACK}, {TASK}
FROM {given("wanted", "upstream text", "task_id text", "client text", "url text", "place")}
CROSS JOIN {_NAMED_TASK.format("wanted")}
CROSS JOIN LATERAL (
    SELECT * FROM callbacks
    WHERE task_seq = t.seq AND hashtextextended(client, 0) = hashtextextended(wanted.client, 0)
        AND hashtextextended(url, 0) = hashtextextended(wanted.url, 0)
        AND hashtextextended(url, 1) = hashtextextended(wanted.url, 1) AND cancelled = 0 OFFSET 0) AS c
WHERE c.client = wanted.client AND c.url = wanted.url
ORDER BY wanted.place
"""  # noqa: S608 - as above

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
WATCH_TASK = f"""
UPDATE tasks SET next_poll_at = CASE WHEN polls = 0 THEN least(next_poll_at, :first_poll_at) ELSE next_poll_at END,
    watchers = (SELECT string_agg(client, ',' ORDER BY client) FROM (
        SELECT client FROM (
            SELECT client FROM callbacks WHERE task_seq = :seq AND state = 'waiting' OFFSET 0) AS waiting
        UNION
        SELECT unnest(string_to_array(watchers, ',')) COLLATE "C" WHERE read_until IS NOT NULL
        ORDER BY client LIMIT {MOST_WATCHERS}) AS who)
WHERE seq = :seq AND next_poll_at IS NOT NULL AND :client <> ALL (string_to_array(watchers, ','))
RETURNING seq, upstream, watchers, next_poll_at
"""  # noqa: S608 - as above

# For a task of which neither the upstream nor an earlier registration has told it.
NAME_MODEL = "UPDATE tasks SET model = :model WHERE seq = :seq AND model IS NULL"

# Of a callback registered after the upstream had ended its task the webhook is due at once, as OWE_WEBHOOKS has it.
OWE_WEBHOOK = """
UPDATE callbacks SET state = 'pending', next_attempt_at = :deliver_at, body = ''
WHERE id = :id AND body IS NULL AND cancelled <> seq
"""

# And of format record: where no body of that format was kept, it is made of the outcome, and no other comes later.
OWE_RECORD = "UPDATE tasks SET record = '' WHERE seq = $1 AND record IS NULL"
