"""The statements that lock what a transaction will change, in the one order that all replicas keep to.

Tasks by seq, then callbacks by seq: else two transactions might wait for one another, until the server ends one of
them. When a lead is guarded makes no difference: writers share it, and whoever takes it over has locked nothing else.
Called by the engine; other statements that lock several rows do so in this order themselves.
"""

from gateway.store.postgres.leadsql import GUARD_LEADS
from gateway.store.postgres.statements import given

# First of all where what is done depends on who waits for a task, which a later statement then finds out. For no key:
# who deletes a task waits until its row is free of this, and this of that.
_LOCKED = """
SELECT t.seq FROM (SELECT * FROM {0} ORDER BY seq) AS wanted
CROSS JOIN LATERAL (SELECT seq FROM tasks WHERE tasks.seq = wanted.seq FOR NO KEY UPDATE) AS t
"""
LOCK_TASKS = _LOCKED.format(given("new", "seq"))

# Both at once, as each settlement asks for both: GUARD_LEADS' rows, and those of LOCK_TASKS as its third parameter. The
# server locks the tasks first.
GUARD_AND_LOCK = f"""
WITH held AS MATERIALIZED ({GUARD_LEADS}),
locked AS MATERIALIZED ({_LOCKED.format("unnest(CAST($3 AS bigint[])) AS new (seq)")})
SELECT name FROM held WHERE (SELECT count(*) FROM locked) >= 0
"""  # noqa: S608 - the interpolated parts are made of constants

# The same of all that a transaction will change: some kinds of writes know tasks by their names, some by callbacks.
# Parameters: arrays of seqs, of upstreams and task_ids, and of callbacks' ids.
LOCK_ALL = """
WITH wanted AS MATERIALIZED (
    SELECT seq FROM unnest(CAST($1 AS bigint[])) AS known (seq)
    UNION SELECT t.seq
        FROM unnest(CAST($2 AS text[]) COLLATE "C", CAST($3 AS text[]) COLLATE "C") AS named (upstream, task_id)
        CROSS JOIN LATERAL (
            SELECT seq FROM tasks WHERE task_id = named.task_id AND upstream = named.upstream OFFSET 0) AS t
    UNION SELECT c.task_seq FROM unnest(CAST($4 AS text[]) COLLATE "C") AS its (id)
        CROSS JOIN LATERAL (SELECT task_seq FROM callbacks WHERE callbacks.id = its.id OFFSET 0) AS c)
SELECT t.seq FROM (SELECT seq FROM wanted ORDER BY seq) AS wanted
CROSS JOIN LATERAL (SELECT seq FROM tasks WHERE tasks.seq = wanted.seq FOR NO KEY UPDATE) AS t
"""

# Callbacks, once their tasks are locked: some kinds of writes know them by their seqs, and lock no tasks.
# Parameters: arrays of seqs and of ids.
LOCK_CALLBACKS = """
WITH wanted AS MATERIALIZED (
    SELECT seq FROM unnest(CAST($1 AS bigint[])) AS known (seq)
    UNION SELECT c.seq FROM unnest(CAST($2 AS text[]) COLLATE "C") AS its (id)
        CROSS JOIN LATERAL (SELECT seq FROM callbacks WHERE callbacks.id = its.id OFFSET 0) AS c)
SELECT c.seq FROM (SELECT seq FROM wanted ORDER BY seq) AS wanted
CROSS JOIN LATERAL (SELECT seq FROM callbacks WHERE callbacks.seq = wanted.seq FOR NO KEY UPDATE) AS c
"""
