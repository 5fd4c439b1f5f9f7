-- The deliverer's question is asked for each client: what one of them is owed must not stand in another's way.
DROP INDEX callbacks_due;
CREATE INDEX callbacks_due ON callbacks (client, receiver, next_attempt_at, budget_used) WHERE state = 'pending';

-- The question at a task's end and at a cancel: who waits for it? It may have had any number of callbacks that do not.
CREATE INDEX callbacks_waiting ON callbacks (task_seq) WHERE state = 'waiting';
