-- Instants are milliseconds since the epoch. The states stand in gateway/core/model.py with who moves them.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a claim may outlive its row
    upstream       TEXT NOT NULL,
    task_id        TEXT NOT NULL,
    state          TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'success', 'fail', 'abandoned')),
    created_at     INTEGER NOT NULL,            -- when the gateway began to watch it
    born_at        INTEGER,                     -- when the upstream says it was created
    model          TEXT,
    polls          INTEGER NOT NULL DEFAULT 0,
    failures       INTEGER NOT NULL DEFAULT 0,  -- polls in a row without a usable answer
    last_polled_at INTEGER,
    next_poll_at   INTEGER,                     -- null: nobody waits, or settled
    last_error     TEXT,
    settled_at     INTEGER,
    outcome        BLOB,                        -- the webhook's data members, encoded JSON
    UNIQUE (task_id, upstream),                 -- in this order: clients ask by task_id alone
    CHECK ((settled_at IS NULL) = (state = 'waiting')),
    CHECK ((outcome IS NULL) = (state = 'waiting')),
    CHECK (next_poll_at IS NULL OR state = 'waiting')
) STRICT;

-- How long tasks took, the last 256 of each of the last 128 models: what the poll schedule is learned from.
CREATE TABLE durations (
    upstream    TEXT NOT NULL,
    model       TEXT NOT NULL,
    slot        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,               -- counts up with every duration of its upstream
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (upstream, model, slot)
) STRICT, WITHOUT ROWID;

-- The poller's question: which tasks of this upstream are due, the longest due first?
CREATE INDEX tasks_due ON tasks (upstream, next_poll_at) WHERE next_poll_at IS NOT NULL;

CREATE TABLE callbacks (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: it orders lists, and claims name it
    id              TEXT NOT NULL UNIQUE,
    client          TEXT NOT NULL,
    task_seq        INTEGER NOT NULL REFERENCES tasks (seq),
    url             TEXT NOT NULL,
    receiver        TEXT NOT NULL,               -- scheme, host and port of the URL
    metadata        BLOB NOT NULL,               -- encoded JSON object
    timeout_s       INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'waiting'
                    CHECK (state IN ('waiting', 'pending', 'delivered', 'dead', 'cancelled')),
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,  -- all that were made; numbers the attempts
    budget_used     INTEGER NOT NULL DEFAULT 0,  -- those that count against the retry schedule
    redeliveries    INTEGER NOT NULL DEFAULT 0,  -- fences off an attempt claimed before a redelivery
    next_attempt_at INTEGER,
    delivered_at    INTEGER,
    ended_at        INTEGER,                     -- when it became delivered, dead or cancelled
    last_error      TEXT,
    cancelled       INTEGER NOT NULL DEFAULT 0,  -- its own seq once cancelled: the same registration can be made anew
    body            BLOB,                        -- the webhook's bytes, fixed when the task settles
    CHECK ((next_attempt_at IS NOT NULL) = (state = 'pending')),
    CHECK ((ended_at IS NOT NULL) = (state IN ('delivered', 'dead', 'cancelled'))),
    CHECK ((cancelled <> 0) = (state = 'cancelled')),
    CHECK (body IS NOT NULL OR state IN ('waiting', 'cancelled')),
    -- One registration per client, task and URL; cancelled ones do not count. Its index also finds a task's callbacks.
    UNIQUE (task_seq, client, url, cancelled)
) STRICT;

-- The deliverer's question: which webhooks of this receiver are due?
CREATE INDEX callbacks_due ON callbacks (receiver, next_attempt_at, budget_used) WHERE state = 'pending';
-- The poller's question: whose time has passed?
CREATE INDEX callbacks_expiring ON callbacks (expires_at) WHERE state = 'waiting';
-- The janitor's question.
CREATE INDEX callbacks_ended ON callbacks (state, ended_at) WHERE ended_at IS NOT NULL;
-- The operator's question: which of this client's dead letters are of that time?
CREATE INDEX callbacks_dead ON callbacks (client, ended_at) WHERE state = 'dead';

-- The client's questions: my callbacks, newest first (the row's seq ends each index); the same in one state.
CREATE INDEX callbacks_client ON callbacks (client);
CREATE INDEX callbacks_client_state ON callbacks (client, state);

CREATE TABLE attempts (
    callback_seq INTEGER NOT NULL REFERENCES callbacks (seq) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    duration_ms  INTEGER NOT NULL,
    status_code  INTEGER,
    error        TEXT,
    result       TEXT NOT NULL CHECK (result IN ('delivered', 'retry', 'dead', 'interrupted')),
    excerpt      TEXT,                           -- how the answer's body began, where it was not delivered
    PRIMARY KEY (callback_seq, number)
) STRICT, WITHOUT ROWID;
