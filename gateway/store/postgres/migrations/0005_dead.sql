-- The operator's question: how many of this client's dead letters are of that time, and of receivers with this text in their
-- name? The index alone answers it. Only the dead are in it, and a receiver never changes.
DROP INDEX callbacks_dead;
CREATE INDEX callbacks_dead ON callbacks (client, ended_at, seq) INCLUDE (receiver) WHERE state = 'dead';
