-- The deliverer's question is asked for each client: what one of them is owed must not stand in another's way.
DROP INDEX callbacks_due;
CREATE INDEX callbacks_due ON callbacks (client, receiver, next_attempt_at, budget_used) WHERE state = 'pending';

-- The question at a task's end and at a cancel: who waits for it? It may have had any number of callbacks that do not.
CREATE INDEX callbacks_waiting ON callbacks (task_seq) WHERE state = 'waiting';

-- The clients that a task is polled for take turns: so the poller asks for each one's due tasks.
ALTER TABLE tasks ADD COLUMN watchers TEXT NOT NULL DEFAULT '';  -- their names, with a comma between two

UPDATE tasks SET watchers = coalesce(
    (SELECT group_concat(DISTINCT client) FROM callbacks WHERE task_seq = tasks.seq AND state = 'waiting'), '')
WHERE next_poll_at IS NOT NULL;

DROP INDEX tasks_due;
CREATE INDEX tasks_due ON tasks (upstream, watchers, next_poll_at) WHERE next_poll_at IS NOT NULL;

-- From here on a callback's body may be empty: its webhook's bytes are made from its task's outcome, state and settled_at,
-- which nothing moves once the upstream has ended the task. Bodies that are there stay as they are. A gateway that knows
-- only 0001 would send nothing in their place: this number keeps it from trying.
