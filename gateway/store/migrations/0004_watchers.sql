-- The clients that a task is polled for take turns: so the poller asks for each one's due tasks.

ALTER TABLE tasks ADD COLUMN watchers TEXT NOT NULL DEFAULT '';  -- their names, with a comma between two

UPDATE tasks SET watchers = coalesce(
    (SELECT group_concat(DISTINCT client) FROM callbacks WHERE task_seq = tasks.seq AND state = 'waiting'), '')
WHERE next_poll_at IS NOT NULL;

DROP INDEX tasks_due;
CREATE INDEX tasks_due ON tasks (upstream, watchers, next_poll_at) WHERE next_poll_at IS NOT NULL;
