-- A task's last polls: when each was made, what came, and why the next one was to be when (gateway/core/pollhistory.py).
-- Null: none is known, as of a task that was polled before this was kept.

ALTER TABLE tasks ADD COLUMN poll_log BLOB;
