-- A task's last polls: when each was made, what came, and why the next one was to be when (gateway/core/pollhistory.py).
-- Null: none is known. The release before does not tell them, and its polls are counted as ones that are not kept.
ALTER TABLE tasks ADD COLUMN poll_log bytea;
