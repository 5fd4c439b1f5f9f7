"""The statements for creates that their clients may repeat: ``dialect.CreateStatements``."""

_THE_CREATE = "client = :client AND upstream = :upstream AND request_id = :request_id"

SELECT_CREATE = f"SELECT digest, at, lost_at, status, content_type, task_id, answer FROM creates WHERE {_THE_CREATE}"  # noqa: S608 - the constant above

# Of two replicas that take down the same one the second waits for the first's commit, and then has not taken it down.
INSERT_CREATE = """
INSERT INTO creates (client, upstream, request_id, digest, at, number)
VALUES (:client, :upstream, :request_id, :digest, :at,
    1 + coalesce((
        SELECT number FROM creates WHERE client || '' = :client ORDER BY client || '' DESC, number DESC LIMIT 1), 0))
ON CONFLICT (client, upstream, request_id) DO NOTHING
"""

END_CREATE = f"""
UPDATE creates SET status = :status, content_type = :content_type, task_id = :task_id, answer = :answer
WHERE {_THE_CREATE}
"""  # noqa: S608 - as above

LOSE_CREATE = f"UPDATE creates SET lost_at = :lost_at WHERE {_THE_CREATE} AND status IS NULL"  # noqa: S608 - as above

FORGET_CREATE = f"DELETE FROM creates WHERE {_THE_CREATE} AND status IS NULL"  # noqa: S608 - as above

PRUNE_CREATES = """
DELETE FROM creates WHERE seq = ANY (ARRAY(
    SELECT seq FROM creates WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""

# From one name to the next along the index, as sql.SELECT_CLIENTS.
SELECT_CREATORS = """
WITH RECURSIVE named (client) AS (
    (SELECT client FROM creates ORDER BY client || '' LIMIT 1)
    UNION ALL SELECT next.client FROM named CROSS JOIN LATERAL (
        SELECT client FROM creates WHERE client || '' > named.client ORDER BY client || '' LIMIT 1) AS next)
SELECT client FROM named
"""

# By their numbers: to count rows would take milliseconds for each client.
PRUNE_EXCESS_CREATES = """
DELETE FROM creates WHERE seq = ANY (ARRAY(
    SELECT seq FROM creates
    WHERE client || '' = :client AND number <= (
        SELECT number FROM creates WHERE client || '' = :client ORDER BY client || '' DESC, number DESC LIMIT 1) - :most
    ORDER BY client || '', number LIMIT :limit FOR UPDATE SKIP LOCKED))
"""
