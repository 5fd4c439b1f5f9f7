"""Every statement of looking through rows, for PostgreSQL: ``dialect.SearchStatements``."""

from gateway.store.postgres.statements import CALLBACK, TASK

_CLIENT, _STATE, _UPSTREAM, _TEXT = (f"CAST(:{name} AS text)" for name in ("client", "state", "upstream", "text"))
_IN_METADATA = " OR ".join(
    f"position(CAST(:{name} AS bytea) IN c.metadata) > 0" for name in ("string", "inner", "last")
)

# OFFSET 0 keeps the planner to the rows' own order, and to one task for each callback.
SEARCH_CALLBACKS = f"""
SELECT {CALLBACK}, {TASK} FROM (
    SELECT * FROM callbacks WHERE seq >= CAST(:first AS bigint) AND seq < CAST(:before AS bigint)
    ORDER BY seq DESC OFFSET 0) AS c
CROSS JOIN LATERAL (SELECT * FROM tasks WHERE seq = c.task_seq OFFSET 0) AS t
WHERE ({_CLIENT} IS NULL OR c.client = {_CLIENT}) AND ({_STATE} IS NULL OR c.state = {_STATE})
AND ({_UPSTREAM} IS NULL OR t.upstream = {_UPSTREAM})
AND ({_TEXT} IS NULL OR strpos(c.receiver, {_TEXT}) > 0 OR {_IN_METADATA} OR strpos(t.task_id, {_TEXT}) > 0)
ORDER BY c.seq DESC LIMIT CAST(:limit AS bigint)
"""  # noqa: S608 - the interpolated parts are constants

SEARCH_TASKS = f"""
SELECT {TASK} FROM (
    SELECT * FROM tasks WHERE seq >= CAST(:first AS bigint) AND seq < CAST(:before AS bigint)
    ORDER BY seq DESC OFFSET 0) AS t
WHERE ({_STATE} IS NULL OR t.state = {_STATE}) AND ({_UPSTREAM} IS NULL OR t.upstream = {_UPSTREAM})
AND ({_TEXT} IS NULL OR strpos(t.task_id, {_TEXT}) > 0 OR strpos(coalesce(t.model, ''), {_TEXT}) > 0)
AND ({_CLIENT} IS NULL OR EXISTS (
    SELECT FROM callbacks WHERE task_seq = t.seq
    AND hashtextextended(client, 0) = hashtextextended({_CLIENT}, 0) AND client || '' = {_CLIENT} OFFSET 0))
ORDER BY t.seq DESC LIMIT CAST(:limit AS bigint)
"""  # noqa: S608 - as above

LAST_CALLBACK = "SELECT max(seq) FROM callbacks WHERE seq < CAST(:before AS bigint)"
LAST_TASK = "SELECT max(seq) FROM tasks WHERE seq < CAST(:before AS bigint)"

SELECT_POLL_LOG = "SELECT poll_log FROM tasks WHERE seq = $1"

# Of an index that has all of it: the rows are not read where they have been vacuumed since.
_SINCE, _UNTIL = "CAST(:since AS bigint)", "CAST(:until AS bigint)"
_TO_RECEIVER = "strpos(receiver || '/', CAST(:receiver AS text)) > 0"
_DIED = f"FROM callbacks WHERE client = :client AND state = 'dead' AND ended_at >= {_SINCE}"
COUNT_DIED = f"""
WITH part (till) AS MATERIALIZED (SELECT coalesce((
    SELECT greatest(ended_at, {_SINCE} + 1) {_DIED} AND ended_at < {_UNTIL}
    ORDER BY client, ended_at, seq LIMIT 1 OFFSET CAST(:most AS bigint)), {_UNTIL}))
SELECT (SELECT count(*) {_DIED} AND ended_at < part.till AND (CAST(:receiver AS text) IS NULL OR {_TO_RECEIVER})), till
FROM part
"""  # noqa: S608 - as above

SELECT_DEAD = f"""
SELECT ended_at, seq, id, CASE WHEN {_TO_RECEIVER} THEN url END FROM callbacks
WHERE client = :client AND state = 'dead' AND ended_at < CAST(:until AS bigint)
AND (ended_at, seq) > (CAST(:at AS bigint), CAST(:seq AS bigint))
ORDER BY client, ended_at, seq LIMIT CAST(:limit AS bigint)
"""  # noqa: S608 - as above
