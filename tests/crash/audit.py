"""What replicas write into a shared PostgreSQL, taken down by triggers: who claimed, who recorded, who led, who polled.

Owns the triggers, and the judgement of what each replica may write: under its own claim and its own leadership alone.
The database takes it down in the order in which locks were had, so that no clock is needed. A replica says who it is by
its application_name, ``REPLICA.LIFE``.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

__all__ = ["Audit", "Entry", "claimed_by", "install", "led_by"]

_INSTALL = """
CREATE SCHEMA audit;
CREATE TABLE audit.entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    replica text NOT NULL DEFAULT current_setting('application_name'),
    kind text NOT NULL, name text NOT NULL, number bigint NOT NULL);
CREATE INDEX ON audit.entries (kind, name, id);
CREATE FUNCTION audit.take_down() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = audit AS $$
BEGIN
    CASE TG_ARGV[0]
    WHEN 'claim', 'record' THEN
        INSERT INTO entries (kind, name, number) VALUES (TG_ARGV[0], NEW.seq, NEW.fence);
    WHEN 'attempt' THEN
        INSERT INTO entries (kind, name, number) VALUES ('attempt', NEW.callback_seq, NEW.number);
    WHEN 'lead' THEN
        INSERT INTO entries (kind, name, number) VALUES ('lead', split_part(NEW.name, ':', 2), NEW.epoch);
    ELSE
        INSERT INTO entries (kind, name, number) VALUES (TG_ARGV[0], NEW.upstream, NEW.seq);
    END CASE;
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_claim AFTER UPDATE ON callbacks FOR EACH ROW
WHEN (OLD.fence <> NEW.fence) EXECUTE FUNCTION audit.take_down('claim');
CREATE TRIGGER audit_record AFTER UPDATE ON callbacks FOR EACH ROW
WHEN (OLD.attempts <> NEW.attempts OR OLD.state = 'pending' AND NEW.state <> 'pending')
EXECUTE FUNCTION audit.take_down('record');
CREATE TRIGGER audit_attempt AFTER INSERT OR UPDATE ON attempts FOR EACH ROW
EXECUTE FUNCTION audit.take_down('attempt');
-- What a read that was forwarded is told counts in its task's row as well, and is any replica's to write.
CREATE TRIGGER audit_poll AFTER UPDATE ON tasks FOR EACH ROW
WHEN (OLD.polls <> NEW.polls AND current_query() NOT LIKE '%INSERT INTO tasks%')
EXECUTE FUNCTION audit.take_down('poll');
CREATE TRIGGER audit_settle AFTER UPDATE ON tasks FOR EACH ROW
WHEN (OLD.state = 'waiting' AND NEW.state <> 'waiting') EXECUTE FUNCTION audit.take_down('settle');
CREATE TRIGGER audit_lead AFTER INSERT ON leads FOR EACH ROW
WHEN (NEW.name LIKE 'polls:%') EXECUTE FUNCTION audit.take_down('lead');
CREATE TRIGGER audit_lead_moved AFTER UPDATE ON leads FOR EACH ROW
WHEN (NEW.name LIKE 'polls:%' AND OLD.epoch <> NEW.epoch) EXECUTE FUNCTION audit.take_down('lead');
"""
_LED_BEFORE = """
INSERT INTO audit.entries (kind, name, number, replica)
SELECT 'lead', split_part(name, ':', 2), epoch, $1 FROM leads WHERE name LIKE 'polls:%'
"""
_ENTRIES = "SELECT id, at, replica, kind, name, number FROM audit.entries ORDER BY id"
_CLAIMED = """
SELECT c.seq, c.fence FROM callbacks AS c WHERE c.state = 'pending' AND c.claimed_until > gateway_now()
AND $1 = (SELECT replica FROM audit.entries WHERE kind = 'claim' AND name = CAST(c.seq AS text)
    ORDER BY id DESC LIMIT 1)
"""
_LED = """
SELECT DISTINCT ON (name) name, replica FROM audit.entries WHERE kind = 'lead' ORDER BY name, id DESC
"""


class Entry(NamedTuple):
    id: int
    at: float
    """Seconds of the epoch, by the database's clock."""
    replica: str
    kind: str
    name: str
    """The upstream, or the number of the callback's row."""
    number: int


@dataclass
class Audit:
    """What was written, and what of it may not have been."""

    entries: list[Entry] = field(default_factory=list)
    claims: dict[str, list[Entry]] = field(default_factory=dict)
    """Claims and records of each callback."""
    wrong: list[str] = field(default_factory=list)

    def next_of(self, seq: int, fence: int) -> Entry | None:
        """Return what became of a claim: its record, or the next claim."""
        entries = self.claims.get(str(seq), [])
        return next(
            (one for one in entries if one.number > fence or (one.number == fence and one.kind == "record")), None
        )

    @classmethod
    async def read(cls, connection: "asyncpg.Connection[Any]") -> "Audit":
        audit = cls([Entry(*row) for row in await connection.fetch(_ENTRIES)])
        audit.judge()
        return audit

    def judge(self) -> None:
        """Look through what was written, in its order."""
        claimed: dict[str, str] = {}
        led: dict[str, str] = {}
        for one in self.entries:
            match one.kind:
                case "claim":
                    claimed[one.name] = one.replica
                case "lead":
                    led[one.name] = one.replica
                case "record" | "attempt":
                    if claimed.get(one.name, one.replica) != one.replica:
                        whose = f"{one.replica} wrote its {one.kind}, and {claimed[one.name]} had claimed it"
                        self.wrong.append(f"webhook {one.name}: {whose}")
                case "poll" | "settle":
                    if led.get(one.name) != one.replica:
                        whose = f"{one.replica} wrote a {one.kind}, and {led.get(one.name)} led"
                        self.wrong.append(f"task {one.number} of {one.name}: {whose}")
            if one.kind in ("claim", "record"):
                self.claims.setdefault(one.name, []).append(one)


async def install(connection: "asyncpg.Connection[Any]", life: str) -> None:
    """Take down from now on; this replica is the only one as yet. The connection is a superuser's."""
    async with connection.transaction():
        await connection.execute(_INSTALL)
        await connection.execute(_LED_BEFORE, life)


async def claimed_by(connection: "asyncpg.Connection[Any]", life: str) -> list[tuple[int, int]]:
    """Return the webhooks that a replica has claimed: their rows' numbers, and the fences."""
    return [(row["seq"], row["fence"]) for row in await connection.fetch(_CLAIMED, life)]


async def led_by(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
    """Return the replica that took each upstream last."""
    return {row["name"]: row["replica"] for row in await connection.fetch(_LED)}
