-- When a claim was made, by gateway_now(): one that was made later than now has lapsed, as the clock was set back since. The
-- release before does not tell it, and its claims last as long as they say.
ALTER TABLE callbacks ADD COLUMN claimed_at bigint NOT NULL DEFAULT 0;
