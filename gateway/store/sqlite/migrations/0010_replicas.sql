-- What was told of a task that runs: when, so that an answer that was asked for before that does not take its place; and
-- whether the upstream has since denied that there is the task.

ALTER TABLE tasks ADD COLUMN told_at INTEGER;    -- when the record came; 2^62: it tells of the end, and nothing is newer
ALTER TABLE tasks ADD COLUMN denied_at INTEGER;  -- since when readers are to hear that from the upstream; null: it does not

-- When it was known of a create that its answer will never be: whoever sends it again need not wait for that.
ALTER TABLE creates ADD COLUMN lost_at INTEGER;
