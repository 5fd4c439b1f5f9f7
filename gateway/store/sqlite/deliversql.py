"""The statements of delivering: webhooks that are due, and what came of them, and where their bodies are."""

from gateway.core.memory import SMALL
from gateway.core.model import Attempt
from gateway.store.sqlite.atonce import at_once

_ATTEMPT = ", ".join(Attempt.__struct_fields__)

# Where a body is: with its callback, or else for format record with its task; or the outcome that it is made of, within
# which a text in a text may be twice as long. And it itself, only where it is small: the length of a value is known
# without reading it.
_OF_TASK = "length(c.body) = 0 AND c.format = 'record' AND length(t.record) > 0"
_MADE = f"length(c.body) = 0 AND NOT ({_OF_TASK})"
_BODY = f"""
iif({_OF_TASK}, length(t.record), iif({_MADE}, iif(c.format = 'record', 2, 1) * length(t.outcome), length(c.body))),
iif({_OF_TASK}, iif(length(t.record) <= {SMALL}, t.record, NULL), iif(length(c.body) <= {SMALL}, c.body, NULL)),
iif({_MADE} AND length(t.outcome) <= {SMALL}, t.outcome, NULL), t.state, t.settled_at, c.metadata, c.format"""

# A lane's, claimed ones too: to have a statement pass over those took longer than to read them from the index.
SELECT_NEXT_DUE = at_once(
    """
SELECT seq, next_attempt_at FROM callbacks INDEXED BY callbacks_due
WHERE state = 'pending' AND client = ? AND receiver = ? ORDER BY next_attempt_at LIMIT ?
""",
    2,
)

SELECT_FIRST_ATTEMPTS_DUE = at_once(
    """
SELECT seq FROM callbacks INDEXED BY callbacks_due
WHERE state = 'pending' AND client = ? AND receiver = ? AND next_attempt_at <= ? AND budget_used = 0
ORDER BY next_attempt_at LIMIT ?
""",
    1,
)

SELECT_DUE_CALLBACKS = f"""
SELECT c.seq, c.id, t.task_id, c.client, c.url, c.receiver, c.format, c.attempts, c.budget_used, c.redeliveries,
    c.next_attempt_at, 0, c.trace, {_BODY}
FROM json_each(?) AS due CROSS JOIN callbacks AS c ON c.seq = due.value CROSS JOIN tasks AS t ON t.seq = c.task_seq
ORDER BY c.next_attempt_at
"""  # noqa: S608 - the interpolated part is a constant above

# The same of one webhook, and in which column its task has it. While it waited for room it may have been cancelled.
SELECT_BODY = f"""
SELECT t.seq, c.body, iif({_OF_TASK}, 'record', iif({_MADE}, 'outcome', NULL)), t.state, t.settled_at, c.metadata,
    c.format
FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq WHERE c.seq = ? AND c.state = 'pending'
"""  # noqa: S608 - the interpolated parts are constants above

SELECT_LANES = at_once(
    """
SELECT client, receiver, min(next_attempt_at), NULL FROM callbacks INDEXED BY callbacks_due
WHERE state = 'pending' AND (client, receiver) > (?, ?) GROUP BY client, receiver ORDER BY client, receiver LIMIT ?
""",
    4,
)

HAND_OVER_WEBHOOKS = """
WITH new (seq, receiver, fence) AS (VALUES ?)
UPDATE callbacks SET receiver = new.receiver FROM new WHERE callbacks.seq = new.seq AND callbacks.state = 'pending'
"""

COUNT_OWED = """
SELECT count(*) FROM (
    SELECT 1 FROM callbacks INDEXED BY callbacks_due WHERE state = 'pending' AND client = ? AND receiver = ? LIMIT ?)
"""

# A callback that was cancelled and pruned during the attempt takes its log with it.
INSERT_ATTEMPTS = f"""
WITH made (callback_seq, {_ATTEMPT}, fence) AS (VALUES ?)
INSERT OR REPLACE INTO attempts (callback_seq, {_ATTEMPT})
SELECT c.seq, {", ".join(f"made.{name}" for name in Attempt.__struct_fields__)}
FROM made CROSS JOIN callbacks AS c ON c.seq = made.callback_seq
"""  # noqa: S608 - the interpolated parts are the fields of a type

# A redelivery since the claim fences this off, but for the good news.
RECORD_ATTEMPTS = """
WITH made (seq, number, error, state, next_attempt_at, ended_at, counts, redeliveries, fence) AS (VALUES ?)
UPDATE callbacks SET state = made.state, attempts = max(attempts, made.number),
    budget_used = budget_used + made.counts, next_attempt_at = made.next_attempt_at, last_error = made.error,
    delivered_at = iif(made.state = 'delivered', made.ended_at, NULL),
    ended_at = iif(made.state IN ('delivered', 'dead'), made.ended_at, NULL)
FROM made WHERE callbacks.seq = made.seq AND callbacks.state = 'pending'
AND (callbacks.redeliveries = made.redeliveries OR made.state = 'delivered')
"""

RECORD_DEAD = f"{RECORD_ATTEMPTS}RETURNING seq"

# What was fenced off, or cancelled meanwhile, was made all the same.
COUNT_ATTEMPTS = """
WITH made (seq, number, fence) AS (VALUES ?)
UPDATE callbacks SET attempts = made.number
FROM made WHERE callbacks.seq = made.seq AND callbacks.attempts < made.number
"""

FORGET_INTERRUPTED = """
WITH made (seq, fence) AS (VALUES ?),
its AS (
    SELECT callback_seq, number, lag(result) OVER along AS before, result, lead(result) OVER along AS after
    FROM made CROSS JOIN attempts ON callback_seq = made.seq
    WINDOW along AS (PARTITION BY callback_seq ORDER BY number))
DELETE FROM attempts WHERE (callback_seq, number) IN (
    SELECT callback_seq, number FROM its
    WHERE before = 'interrupted' AND result = 'interrupted' AND after = 'interrupted')
"""
