-- Webhooks of a second format, which hold the upstream's own record of the task.

ALTER TABLE callbacks ADD COLUMN format TEXT NOT NULL DEFAULT 'standard' CHECK (format = 'standard' OR format = 'record');

-- Of a task that the upstream has ended the whole body of such webhooks, once for all of them, and fixed: it is never
-- written again. Empty: one is owed, and is made of the outcome for good. Null: none is owed.
ALTER TABLE tasks ADD COLUMN record BLOB;
