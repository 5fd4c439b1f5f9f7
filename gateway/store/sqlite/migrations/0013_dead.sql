-- The operator's question: how many of this client's dead letters are of that time, and of receivers with this text in their
-- name? All that it asks for stands in the index, the state too: SQLite reads the rows else. Only the dead are in it.
DROP INDEX callbacks_dead;
CREATE INDEX callbacks_dead ON callbacks (client, ended_at, seq, receiver, state) WHERE state = 'dead';
