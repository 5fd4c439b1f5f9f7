-- When a claim was made, by gateway_now(): one that was made later than now has lapsed, as the clock was set back since. The
-- release before does not tell it, and its claims last as long as they say.
ALTER TABLE callbacks ADD COLUMN claimed_at bigint NOT NULL DEFAULT 0;

-- What was told of a task that runs: when, so that an answer that was asked for before that does not take its place; and
-- whether the upstream has since denied that there is the task. The release before heeds neither.
ALTER TABLE tasks
    ADD COLUMN told_at bigint,      -- when the record came; 2^62: it tells of the end, and nothing is newer
    ADD COLUMN denied_at bigint;    -- since when readers are to hear that from the upstream; null: it does not

-- When it was known of a create that its answer will never be: whoever sends it again need not wait for that. The release
-- before does not tell it, and waits.
ALTER TABLE creates ADD COLUMN lost_at bigint;

-- Until when it holds that whoever leads is refused what it leads for, by gateway_now(). It is told anew with each renewal,
-- so that nothing of it is left where a replica of the release before, which does not tell it, takes over.
ALTER TABLE leads ADD COLUMN refused_until bigint NOT NULL DEFAULT 0;
