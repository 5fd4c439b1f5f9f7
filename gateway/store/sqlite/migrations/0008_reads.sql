-- Tasks that the proxy's readers wait for: until when they do. A task is polled while a callback waits, or a reader. It may
-- have no callback at all; then its row goes a while after that.

ALTER TABLE tasks ADD COLUMN read_until INTEGER;

-- The poller's question: whose readers have gone? And the janitor's: for how long? Polls and settlements leave it as it is.
CREATE INDEX tasks_read ON tasks (read_until) WHERE read_until IS NOT NULL;
