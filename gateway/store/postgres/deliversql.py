"""The statements of delivering: webhooks that are due, claimed, given back and recorded, and where their bodies are.

``dialect.DeliverStatements``, and what claims. A claim is a lease in the webhook's row, by the database's clock, and a
number: once it lapses another may take it, and what its owner writes then changes nothing. One that was made later than
now has lapsed too: the clock was set back since, and its owner may be gone.
"""

from gateway.core.memory import SMALL
from gateway.core.model import Attempt
from gateway.store.postgres.statements import given

_ATTEMPT = ", ".join(Attempt.__struct_fields__)
_TASK_OF = "LATERAL (SELECT * FROM tasks WHERE seq = c.task_seq OFFSET 0) AS t"

# Where a body is: with its callback, or else for format record with its task; or the outcome that it is made of, within
# which a text in a text may be twice as long. And it itself, only where it is small: the length of a value is known
# without reading it.
_OF_TASK = "length(c.body) = 0 AND c.format = 'record' AND coalesce(length(t.record), 0) > 0"
_MADE = f"length(c.body) = 0 AND NOT ({_OF_TASK})"
_BODY = f"""
CASE WHEN {_OF_TASK} THEN length(t.record)
    WHEN {_MADE} THEN CASE WHEN c.format = 'record' THEN 2 ELSE 1 END * length(t.outcome)
    ELSE length(c.body) END,
CASE WHEN {_OF_TASK} THEN CASE WHEN length(t.record) <= {SMALL} THEN t.record END
    WHEN length(c.body) <= {SMALL} THEN c.body END,
CASE WHEN {_MADE} AND length(t.outcome) <= {SMALL} THEN t.outcome END, t.state, t.settled_at, c.metadata, c.format"""

# The same of one webhook, and in which column its task has it. While it waited for room it may have been cancelled.
SELECT_BODY = f"""
SELECT t.seq, c.body, CASE WHEN {_OF_TASK} THEN 'record' WHEN {_MADE} THEN 'outcome' END, t.state, t.settled_at,
    c.metadata, c.format
FROM callbacks AS c CROSS JOIN {_TASK_OF} WHERE c.seq = $1 AND c.state = 'pending'
"""  # noqa: S608 - as above

_SET_BACK_MS = 5_000  # a smaller step delays by no more than itself, and takes no claim from who is sending
_CLAIMED = f"claimed_until > clock.now AND claimed_at <= clock.now + {_SET_BACK_MS}"

# Of each lane so many, the longest due ones; what others claim at the same moment is passed over, and nobody waits.
_LANE = "next_attempt_at IS NOT NULL AND client = {0}.client AND receiver = {0}.receiver"
_ORDER = "ORDER BY client, receiver, next_attempt_at, seq"
_CLAIMABLE = f"""
LATERAL (
    SELECT seq FROM callbacks
    WHERE {_LANE.format("share")} AND next_attempt_at BETWEEN share.since AND $6 AND NOT ({_CLAIMED}){{0}}
    {_ORDER} LIMIT share.room FOR NO KEY UPDATE SKIP LOCKED) AS due"""  # noqa: S608 - constants

# When the first one is due that neither anybody has claimed nor this statement does.
_LEFT = f"""
SELECT next_attempt_at FROM callbacks
WHERE {_LANE.format("share")} AND next_attempt_at >= share.since AND NOT ({_CLAIMED})
    AND seq NOT IN (SELECT seq FROM due){{0}}
{_ORDER} LIMIT 1
"""  # noqa: S608 - as above

# Parameters: client, receiver, room, whether with retries, and before when none is due, an array for each; by when they
# are due; and for how many milliseconds they are claimed. (What webhooks leave behind in the index stays while anybody
# has a transaction open: nobody is to pass over all of that.) Returns the fields of ``DueCallback``, the longest due
# first. Among them, with no id: for each share its place, when the next one is due and, where it takes no retries, when
# the next one that is none is. All of it at once, as it is asked for so often.
CLAIM_WEBHOOKS = f"""
WITH share AS MATERIALIZED (
    SELECT * FROM {given("share", "client text", "receiver text", "room", "retries boolean", "since", place=True)}),
clock AS MATERIALIZED (SELECT gateway_now() AS now),
due AS MATERIALIZED (
    SELECT due.seq FROM clock CROSS JOIN share CROSS JOIN {_CLAIMABLE.format("")} WHERE share.retries
    UNION ALL
    SELECT due.seq FROM clock CROSS JOIN share CROSS JOIN {_CLAIMABLE.format(" AND budget_used = 0")}
    WHERE NOT share.retries),
c AS (
    UPDATE callbacks SET claimed_at = clock.now, claimed_until = clock.now + $7, fence = fence + 1
    FROM due CROSS JOIN clock WHERE callbacks.seq = ANY (ARRAY[due.seq])
    RETURNING callbacks.*)
SELECT c.seq, c.id, t.task_id, c.client, c.url, c.receiver, c.format, c.attempts, c.budget_used, c.redeliveries,
    c.next_attempt_at, c.fence, c.trace, {_BODY}
FROM c CROSS JOIN {_TASK_OF}
UNION ALL
SELECT share.place, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    ({_LEFT.format("")}), CASE WHEN NOT share.retries THEN ({_LEFT.format(" AND budget_used = 0")}) END,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM clock CROSS JOIN share
ORDER BY next_attempt_at, seq
"""  # noqa: S608 - as above

# Parameters: seq, fence, and for how many milliseconds from now on it is claimed.
KEEP_WEBHOOK = """
UPDATE callbacks SET claimed_at = clock.now, claimed_until = clock.now + $3 FROM (SELECT gateway_now() AS now) AS clock
WHERE seq = $1 AND fence = $2 RETURNING seq
"""

# Rows seq, fence.
RELEASE_WEBHOOKS = f"""
UPDATE callbacks SET claimed_until = 0
FROM (SELECT * FROM {given("new", "seq", "fence")} ORDER BY seq) AS given
WHERE callbacks.seq = ANY (ARRAY[given.seq]) AND callbacks.fence = given.fence AND claimed_until > 0
"""  # noqa: S608 - as above

HAND_OVER_WEBHOOKS = f"""
UPDATE callbacks SET receiver = given.receiver, claimed_until = 0
FROM (SELECT * FROM {given("new", "seq", "receiver text", "fence")} ORDER BY seq) AS given
WHERE callbacks.seq = ANY (ARRAY[given.seq]) AND callbacks.fence = given.fence AND callbacks.state = 'pending'
AND claimed_until > 0
"""  # noqa: S608 - as above

COUNT_OWED = """
SELECT count(*) FROM (
    SELECT FROM callbacks WHERE next_attempt_at IS NOT NULL AND client = $1 AND receiver = $2 LIMIT $3) AS owed
"""

# From one lane to the next along the index, a part of them at a time. Of each, when the first one is due that nobody
# has claimed, and when which claims lapse of the first ones: those of a dead replica are before all that have fallen
# due since. What was left behind before a lane's first one is passed over once.
_FIRST = (
    "SELECT client, receiver, next_attempt_at FROM callbacks WHERE next_attempt_at IS NOT NULL AND (client, receiver)"
)
_OF_LANE = f"{_LANE.format('lane')} AND next_attempt_at >= lane.since"
SELECT_LANES = f"""
WITH RECURSIVE lane (client, receiver, since) AS (
    ({_FIRST} > ($1, $2) {_ORDER} LIMIT 1)
    UNION ALL SELECT next.* FROM lane CROSS JOIN LATERAL (
        {_FIRST} > (lane.client, lane.receiver) {_ORDER} LIMIT 1) AS next)
SELECT client, receiver,
    (SELECT next_attempt_at FROM callbacks WHERE {_OF_LANE} AND NOT ({_CLAIMED}) {_ORDER} LIMIT 1),
    nullif(ARRAY(SELECT DISTINCT claimed_until FROM (
        SELECT claimed_at, claimed_until FROM callbacks WHERE {_OF_LANE} {_ORDER} LIMIT 100) AS first
        WHERE {_CLAIMED}), '{{}}')
FROM (SELECT gateway_now() AS now) AS clock CROSS JOIN lane LIMIT $3
"""  # noqa: S608 - as above

_SAME_AGAIN = f"""
ON CONFLICT (callback_seq, number) DO UPDATE SET {
    ", ".join(f"{name} = excluded.{name}" for name in Attempt.__struct_fields__[1:])
}
"""

# A callback that was cancelled and pruned during the attempt takes its log with it; a claim that was lost has none.
# Locked, so that none is deleted before its attempt is there to go with it, or claimed by another until it is recorded.
INSERT_ATTEMPTS = f"""
INSERT INTO attempts (callback_seq, {_ATTEMPT})
SELECT DISTINCT ON (c.seq, made.number) c.seq, {", ".join(f"made.{name}" for name in Attempt.__struct_fields__)}
FROM (SELECT * FROM {
    given(
        "new",
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
} ORDER BY callback_seq) AS made
CROSS JOIN LATERAL (
    SELECT seq FROM callbacks WHERE seq = made.callback_seq AND fence = made.fence FOR NO KEY UPDATE) AS c
ORDER BY c.seq, made.number, made.place DESC
{_SAME_AGAIN}"""  # noqa: S608 - as above

_RECORDED = (
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

# A redelivery since the claim fences this off, but for the good news. A claim that has lapsed and was taken by another
# fences off all. So does one that has ended: this very attempt was recorded, and its commit's answer was lost.
_RECORD = """
UPDATE callbacks SET state = made.state, attempts = greatest(attempts, made.number),
    budget_used = budget_used + made.counts, next_attempt_at = made.next_attempt_at, last_error = made.error,
    delivered_at = CASE WHEN made.state = 'delivered' THEN made.ended_at END,
    ended_at = CASE WHEN made.state IN ('delivered', 'dead') THEN made.ended_at END, claimed_until = 0
FROM (SELECT * FROM {0} ORDER BY seq) AS made
WHERE callbacks.seq = ANY (ARRAY[made.seq]) AND callbacks.fence = made.fence AND callbacks.state = 'pending'
AND callbacks.claimed_until > 0 AND (callbacks.redeliveries = made.redeliveries OR made.state = 'delivered')
"""
RECORD_ATTEMPTS = _RECORD.format(given("new", *_RECORDED))
RECORD_DEAD = f"{RECORD_ATTEMPTS}RETURNING callbacks.seq"

# Each row is found, locked and sent once, and not twice: where nothing is fenced off, which is nearly always.
RECORD_UNFENCED = f"""
WITH recorded AS ({
    _RECORD.format(given("new", *_RECORDED, "started_at", "duration_ms", "status_code", "result text", "excerpt text"))
} RETURNING callbacks.seq, {", ".join(f"made.{name}" for name in Attempt.__struct_fields__)})
INSERT INTO attempts (callback_seq, {_ATTEMPT}) SELECT * FROM recorded
{_SAME_AGAIN}"""  # noqa: S608 - as above

# What was fenced off by a redelivery, or cancelled meanwhile, was made all the same; its claim has ended.
COUNT_ATTEMPTS = f"""
UPDATE callbacks SET attempts = greatest(attempts, made.number), claimed_until = 0
FROM (SELECT * FROM {given("new", "seq", "number", "fence")} ORDER BY seq) AS made
WHERE callbacks.seq = ANY (ARRAY[made.seq]) AND callbacks.fence = made.fence
AND (callbacks.attempts < made.number OR callbacks.claimed_until > 0)
"""  # noqa: S608 - as above

# Of callbacks that this transaction has locked: else two might wait for one another.
FORGET_INTERRUPTED = f"""
WITH its AS MATERIALIZED (
    SELECT its.* FROM (SELECT DISTINCT seq, fence FROM {given("new", "seq", "fence")}) AS made
    CROSS JOIN LATERAL (SELECT seq FROM callbacks WHERE seq = made.seq AND fence = made.fence OFFSET 0) AS c
    CROSS JOIN LATERAL (
        SELECT callback_seq, number, lag(result) OVER along AS before, result, lead(result) OVER along AS after
        FROM attempts WHERE callback_seq = c.seq WINDOW along AS (ORDER BY number)) AS its)
DELETE FROM attempts USING its
WHERE attempts.callback_seq = ANY (ARRAY[its.callback_seq]) AND attempts.number = its.number
AND its.before = 'interrupted' AND its.result = 'interrupted' AND its.after = 'interrupted'
"""  # noqa: S608 - as above
