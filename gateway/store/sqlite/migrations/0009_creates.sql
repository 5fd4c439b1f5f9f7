-- Creates of clients that name their requests: taken down before they are forwarded, so that none is paid for twice.

CREATE TABLE creates (
    seq          INTEGER PRIMARY KEY,
    client       TEXT NOT NULL,
    number       INTEGER NOT NULL,   -- counts up with each of its client's
    upstream     TEXT NOT NULL,
    request_id   TEXT NOT NULL,      -- the client's own
    digest       BLOB NOT NULL,      -- of what was asked
    at           INTEGER NOT NULL,   -- when it was begun
    status       INTEGER,            -- of the answer; null: none is known, and a task may have been made
    content_type TEXT,
    task_id      TEXT,
    answer       BLOB,               -- null: none is known, or it was too large
    UNIQUE (client, upstream, request_id),
    CHECK (status IS NOT NULL OR (content_type IS NULL AND task_id IS NULL AND answer IS NULL))
) STRICT;

-- The janitor's questions: which are old, and which has its client made many others after?
CREATE INDEX creates_at ON creates (at);
CREATE INDEX creates_client ON creates (client, number);
