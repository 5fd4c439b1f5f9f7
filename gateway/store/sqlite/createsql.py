"""The statements for creates that their clients may repeat, named as those of ``sql.py``."""

_THE_CREATE = "client = :client AND upstream = :upstream AND request_id = :request_id"

SELECT_CREATE = f"SELECT digest, at, lost_at, status, content_type, task_id, answer FROM creates WHERE {_THE_CREATE}"  # noqa: S608 - the constant above

INSERT_CREATE = """
INSERT INTO creates (client, upstream, request_id, digest, at, number)
VALUES (:client, :upstream, :request_id, :digest, :at,
    (SELECT coalesce(max(number), 0) + 1 FROM creates WHERE client = :client))
ON CONFLICT (client, upstream, request_id) DO NOTHING
"""

END_CREATE = f"""
UPDATE creates SET status = :status, content_type = :content_type, task_id = :task_id, answer = :answer
WHERE {_THE_CREATE}
"""  # noqa: S608 - as above

LOSE_CREATE = f"UPDATE creates SET lost_at = :lost_at WHERE {_THE_CREATE} AND status IS NULL"  # noqa: S608 - as above

FORGET_CREATE = f"DELETE FROM creates WHERE {_THE_CREATE} AND status IS NULL"  # noqa: S608 - as above

PRUNE_CREATES = "DELETE FROM creates WHERE seq IN (SELECT seq FROM creates WHERE at < ? LIMIT ?)"

# From one name to the next along the index, as sql.SELECT_CLIENTS.
SELECT_CREATORS = """
WITH RECURSIVE named (client) AS (
    SELECT min(client) FROM creates
    UNION ALL SELECT (SELECT min(client) FROM creates WHERE client > named.client) FROM named
    WHERE named.client IS NOT NULL)
SELECT client FROM named WHERE client IS NOT NULL
"""

# By their numbers: to count rows would take milliseconds for each client.
PRUNE_EXCESS_CREATES = """
DELETE FROM creates WHERE seq IN (
    SELECT seq FROM creates INDEXED BY creates_client
    WHERE client = :client AND number <= (SELECT max(number) FROM creates WHERE client = :client) - :most
    LIMIT :limit)
"""

# Its age is what it was.
MOVE_CREATES = "UPDATE creates SET at = at + :step, lost_at = lost_at + :step"
