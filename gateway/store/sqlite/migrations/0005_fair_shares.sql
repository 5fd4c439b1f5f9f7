-- From schema 1, and from each of the schemas 2, 3 and 4 that earlier gateways have left: 2 was once what stands here, and
-- once the first of three steps to it (2: bodies may be empty; 3: the indexes of callbacks; 4: tasks.watchers, as the last
-- column). All have the columns that are read here, and what they have beside them is made anew: so it need not be told
-- which one it is, and all end as the same.

-- The tables are made anew. Their states are checked with OR: of an IN with more than two values SQLite makes a table for
-- each row that it writes, which took a quarter of a registration's time.

-- The clients that a task is polled for take turns: so the poller asks for each one's due tasks.

CREATE TABLE new_tasks (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a claim may outlive its row
    upstream       TEXT NOT NULL,
    task_id        TEXT NOT NULL,
    state          TEXT NOT NULL DEFAULT 'waiting'
                   CHECK (state = 'waiting' OR state = 'success' OR state = 'fail' OR state = 'abandoned'),
    created_at     INTEGER NOT NULL,            -- when the gateway began to watch it
    born_at        INTEGER,                     -- when the upstream says it was created
    model          TEXT,
    polls          INTEGER NOT NULL DEFAULT 0,
    failures       INTEGER NOT NULL DEFAULT 0,  -- polls in a row without a usable answer
    last_polled_at INTEGER,
    watchers       TEXT NOT NULL,               -- the names of the clients that wait, with a comma between two
    next_poll_at   INTEGER,                     -- null: nobody waits, or settled
    last_error     TEXT,
    settled_at     INTEGER,
    outcome        BLOB,                        -- the webhook's data members, encoded JSON
    UNIQUE (task_id, upstream),                 -- in this order: clients ask by task_id alone
    CHECK ((settled_at IS NULL) = (state = 'waiting')),
    CHECK ((outcome IS NULL) = (state = 'waiting')),
    CHECK (next_poll_at IS NULL OR state = 'waiting')
) STRICT;

INSERT INTO sqlite_sequence (name, seq) SELECT 'new_tasks', seq FROM sqlite_sequence WHERE name = 'tasks';

INSERT INTO new_tasks (
    seq, upstream, task_id, state, created_at, born_at, model, polls, failures, last_polled_at, watchers, next_poll_at,
    last_error, settled_at, outcome)
SELECT seq, upstream, task_id, state, created_at, born_at, model, polls, failures, last_polled_at,
    iif(next_poll_at IS NULL, '', coalesce(
        (SELECT group_concat(client) FROM (
            SELECT DISTINCT client FROM callbacks WHERE task_seq = tasks.seq AND state = 'waiting' ORDER BY client)), '')),
    next_poll_at, last_error, settled_at, outcome
FROM tasks;

DROP TABLE tasks;
ALTER TABLE new_tasks RENAME TO tasks;

CREATE INDEX tasks_due ON tasks (upstream, watchers, next_poll_at) WHERE next_poll_at IS NOT NULL;

-- From here on a callback's body may be empty: its webhook's bytes are made from its task's outcome, state and settled_at,
-- which nothing moves once the upstream has ended the task. Bodies that are there stay as they are. A gateway that knows
-- only 0001 would send nothing in their place: this number keeps it from trying.

CREATE TABLE new_callbacks (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: it orders lists, and claims name it
    id              TEXT NOT NULL UNIQUE,
    client          TEXT NOT NULL,
    task_seq        INTEGER NOT NULL REFERENCES tasks (seq),
    url             TEXT NOT NULL,
    receiver        TEXT NOT NULL,               -- scheme, host and port of the URL
    metadata        BLOB NOT NULL,               -- encoded JSON object
    timeout_s       INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'waiting'
                    CHECK (state = 'waiting' OR state = 'pending' OR state = 'delivered' OR state = 'dead'
                        OR state = 'cancelled'),
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
    body            BLOB,                        -- the webhook's bytes, or empty
    CHECK ((next_attempt_at IS NOT NULL) = (state = 'pending')),
    CHECK ((ended_at IS NULL) = (state IN ('waiting', 'pending'))),
    CHECK ((cancelled <> 0) = (state = 'cancelled')),
    CHECK (body IS NOT NULL OR state IN ('waiting', 'cancelled')),
    -- One registration per client, task and URL; cancelled ones do not count. Its index also finds a task's callbacks.
    UNIQUE (task_seq, client, url, cancelled)
) STRICT;

INSERT INTO sqlite_sequence (name, seq) SELECT 'new_callbacks', seq FROM sqlite_sequence WHERE name = 'callbacks';
INSERT INTO new_callbacks SELECT * FROM callbacks;
DROP TABLE callbacks;
ALTER TABLE new_callbacks RENAME TO callbacks;

-- The deliverer's question: which webhooks of this client's to this receiver are due? What one client is owed must not
-- stand in another's way.
CREATE INDEX callbacks_due ON callbacks (client, receiver, next_attempt_at, budget_used) WHERE state = 'pending';
-- The question at a task's end and at a cancel: who waits for it? It may have had any number of callbacks that do not.
CREATE INDEX callbacks_waiting ON callbacks (task_seq) WHERE state = 'waiting';
-- The poller's question: whose time has passed?
CREATE INDEX callbacks_expiring ON callbacks (expires_at) WHERE state = 'waiting';
-- The janitor's question.
CREATE INDEX callbacks_ended ON callbacks (state, ended_at) WHERE ended_at IS NOT NULL;
-- The operator's question: which of this client's dead letters are of that time?
CREATE INDEX callbacks_dead ON callbacks (client, ended_at) WHERE state = 'dead';

-- The client's questions: my callbacks, newest first (the row's seq ends each index); the same in one state.
CREATE INDEX callbacks_client ON callbacks (client);
CREATE INDEX callbacks_client_state ON callbacks (client, state);

CREATE TABLE new_attempts (
    callback_seq INTEGER NOT NULL REFERENCES callbacks (seq) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    duration_ms  INTEGER NOT NULL,
    status_code  INTEGER,
    error        TEXT,
    result       TEXT NOT NULL
                 CHECK (result = 'delivered' OR result = 'retry' OR result = 'dead' OR result = 'interrupted'),
    excerpt      TEXT,                           -- how the answer's body began, where it was not delivered
    PRIMARY KEY (callback_seq, number)
) STRICT, WITHOUT ROWID;

INSERT INTO new_attempts SELECT * FROM attempts;
DROP TABLE attempts;
ALTER TABLE new_attempts RENAME TO attempts;
