"""The statements of leadership: who leads what, until when, and what of a leader's writes still counts.

A lease is compared with the database's clock alone. One that would last for longer than two from now has lapsed too:
the clock was set back since, and whoever had it may be gone. Called by the PostgreSQL store.
"""

from gateway.store.postgres.statements import given

_UNTIL = "gateway_now() + CAST(:ttl_ms AS bigint)"
_REFUSED_UNTIL = f"CASE WHEN CAST(:refused AS boolean) THEN {_UNTIL} ELSE 0 END"
_LASTS = "{0} > gateway_now() AND {0} <= gateway_now() + 2 * CAST(:ttl_ms AS bigint)"

# Prolonged where it is one's own and has not lapsed; taken, with a new epoch, where nobody leads any more. Nothing:
# another leads. A renewal changes no column of a unique index, and so waits for no GUARD_LEADS; a take-over may, and
# does: until it is done nobody else leads what a leader writes at that moment.
TAKE_LEAD = f"""
WITH renewed AS (
    UPDATE leads SET expires_at = {_UNTIL}, refused_until = {_REFUSED_UNTIL}
    WHERE name = :name AND holder = :holder AND expires_at > gateway_now()
    RETURNING epoch),
taken AS (
    INSERT INTO leads AS l (name, holder, epoch, expires_at, refused_until)
    SELECT :name, :holder, 1, {_UNTIL}, {_REFUSED_UNTIL}
    WHERE NOT EXISTS (SELECT FROM renewed) AND NOT EXISTS (
        SELECT FROM leads WHERE name = :name AND holder <> :holder AND {_LASTS.format("expires_at")})
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at,
        refused_until = excluded.refused_until
    WHERE NOT ({_LASTS.format("l.expires_at")})
    RETURNING epoch)
SELECT epoch FROM renewed UNION ALL SELECT epoch FROM taken
"""  # noqa: S608 - the interpolated parts are made of constants

# At once another may lead.
RESIGN_LEAD = "UPDATE leads SET expires_at = 0, refused_until = 0 WHERE name = :name AND holder = :holder"

# Rows name, epoch, none twice → the names that are still led under that epoch, by whoever asks; nobody takes them over
# until the transaction ends.
GUARD_LEADS = f"""
SELECT l.name FROM {given("mine", "name text", "epoch")}
CROSS JOIN LATERAL (
    SELECT name FROM leads WHERE leads.name = mine.name AND leads.epoch = mine.epoch FOR KEY SHARE) AS l
"""  # noqa: S608 - as above

# A replica tells that it ends.
LEAVE = "DELETE FROM leads WHERE name = 'replica:' || :holder"

# A replica tells that it is there: a lease that is its own. Returns the names of all that have not lapsed, its own too,
# and whether their holders tell that they are refused.
STAND = f"""
WITH stood AS (
    INSERT INTO leads (name, holder, epoch, expires_at)
    VALUES ('replica:' || :holder, :holder, 0, {_UNTIL})
    ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at
    RETURNING name),
gone AS (
    DELETE FROM leads WHERE name = ANY (ARRAY(
        SELECT name FROM leads
        WHERE name ^@ 'replica:' AND holder <> :holder AND abs(expires_at - gateway_now()) > 3600000
        FOR UPDATE SKIP LOCKED)))
SELECT name, refused_until > gateway_now() FROM leads WHERE {_LASTS.format("expires_at")}
UNION SELECT name, false FROM stood
"""  # noqa: S608 - as above
