"""Every statement of looking through rows, for SQLite: ``dialect.SearchStatements``."""

from gateway.store.sqlite.atonce import at_once
from gateway.store.sqlite.columns import CALLBACK as _CALLBACK
from gateway.store.sqlite.columns import TASK as _TASK
from gateway.store.sqlite.columns import callbacks_at_once, tasks_at_once

# NOT INDEXED leaves the rows' own order alone; CROSS JOIN keeps to it. Metadata is compared as bytes.
SEARCH_CALLBACKS = callbacks_at_once(f"""
SELECT {_CALLBACK}, {_TASK} FROM callbacks AS c NOT INDEXED CROSS JOIN tasks AS t ON t.seq = c.task_seq
WHERE c.seq >= :first AND c.seq < :before
AND (:client IS NULL OR c.client = :client) AND (:state IS NULL OR c.state = :state)
AND (:upstream IS NULL OR t.upstream = :upstream)
AND (:text IS NULL OR instr(c.receiver, :text) OR instr(c.metadata, :string) OR instr(c.metadata, :inner)
    OR instr(c.metadata, :last) OR instr(t.task_id, :text))
ORDER BY c.seq DESC LIMIT :limit
""")  # noqa: S608 - the interpolated parts are the constants above

SEARCH_TASKS = tasks_at_once(f"""
SELECT {_TASK} FROM tasks AS t NOT INDEXED
WHERE t.seq >= :first AND t.seq < :before
AND (:state IS NULL OR t.state = :state) AND (:upstream IS NULL OR t.upstream = :upstream)
AND (:text IS NULL OR instr(t.task_id, :text) OR instr(coalesce(t.model, ''), :text))
AND (:client IS NULL OR EXISTS (SELECT 1 FROM callbacks AS c WHERE c.task_seq = t.seq AND c.client = :client))
ORDER BY t.seq DESC LIMIT :limit
""")  # noqa: S608 - as above

LAST_CALLBACK = "SELECT max(seq) FROM callbacks WHERE seq < :before"
LAST_TASK = "SELECT max(seq) FROM tasks WHERE seq < :before"

SELECT_POLL_LOG = "SELECT poll_log FROM tasks WHERE seq = ?"

# Of an index that has all of it: the rows are not read.
_DIED = "FROM callbacks INDEXED BY callbacks_dead WHERE client = :client AND state = 'dead' AND ended_at >= :since"
_TO_RECEIVER = "instr(receiver || '/', :receiver)"
COUNT_DIED = f"""
WITH part (till) AS (SELECT coalesce((
    SELECT max(ended_at, :since + 1) {_DIED} AND ended_at < :until
    ORDER BY ended_at, seq LIMIT 1 OFFSET :most), :until))
SELECT (SELECT count(*) {_DIED} AND ended_at < part.till AND (:receiver IS NULL OR {_TO_RECEIVER})), till
FROM part
"""  # noqa: S608 - as above

SELECT_DEAD = at_once(
    f"""
SELECT ended_at, seq, id, CASE WHEN {_TO_RECEIVER} THEN url END FROM callbacks INDEXED BY callbacks_dead
WHERE client = :client AND state = 'dead' AND ended_at < :until
AND (ended_at, seq) > (:at, :seq)
ORDER BY ended_at, seq LIMIT :limit
""",  # noqa: S608 - as above
    4,
)
