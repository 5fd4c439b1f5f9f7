"""What is mutated, what tests it, and which mutants change nothing that anybody could see.

Owns the three lists; no code.
"""

from typing import NamedTuple

__all__ = ["COVERED", "EQUIVALENT", "LEAST_SCORE", "LEFT_OUT", "MODULES", "TESTS", "Equivalent"]

LEAST_SCORE = 0.85

COVERED = (
    "gateway/core/model.py",
    "gateway/core/claims.py",
    "gateway/core/ids.py",
    "gateway/core/urls.py",
    "gateway/store/housekeeping.py",
    "gateway/store/sqlite/store.py",
    "gateway/store/sqlite/engine.py",
    "gateway/store/sqlite/webhookclaims.py",
    "gateway/store/registry.py",
    "gateway/store/creates.py",
    "gateway/store/tasks.py",
    "gateway/store/duetasks.py",
    "gateway/store/expiries.py",
    "gateway/store/watches.py",
    "gateway/store/outbox.py",
    "gateway/store/lanes.py",
    "gateway/store/sqlite/blobs.py",
    "gateway/store/rows.py",
    "gateway/store/writer.py",
    "gateway/store/writes.py",
    "gateway/loops/poller.py",
    "gateway/loops/pollresults.py",
    "gateway/loops/expiry.py",
    "gateway/loops/endings.py",
    "gateway/loops/leading.py",
    "gateway/loops/clocksteps.py",
    "gateway/upstream/troubled.py",
    "gateway/loops/deliverer.py",
    "gateway/loops/claiming.py",
    "gateway/loops/janitor.py",
    "gateway/loops/happenings.py",
    "gateway/loops/operatorevents.py",
    "gateway/store/events.py",
)
"""The state machine: every branch of it is taken by the tests."""

MODULES = (
    *COVERED,
    "gateway/store/sqlite/sql.py",
    "gateway/store/sqlite/deliversql.py",
    "gateway/store/sqlite/createsql.py",
    "gateway/store/sqlite/watchsql.py",
    "gateway/store/sqlite/statements.py",
    "gateway/store/sqlite/connectionlock.py",
    "gateway/store/sqlite/backupfile.py",
    "gateway/store/sqlite/database.py",
    "gateway/store/sqlite/databasefile.py",
    "gateway/store/sqlite/filewatch.py",
    "gateway/loops/supervisor.py",
    "gateway/loops/inflight.py",
    "gateway/core/eventledger.py",
    "gateway/webhook/bulkhead.py",
    "gateway/webhook/limits.py",
    "gateway/webhook/newcomers.py",
    "gateway/webhook/waiting.py",
    "gateway/webhook/retry.py",
    "gateway/upstream/turns.py",
    "gateway/loops/pollshares.py",
    "gateway/loops/pauses.py",
    "gateway/loops/failing.py",
    "gateway/store/sqlite/atonce.py",
    "gateway/store/sqlite/columns.py",
)

LEFT_OUT = (
    "gateway/store/sqlite/copyside.py",
    "gateway/store/dialect.py",
    "gateway/store/searching.py",
    "gateway/store/sqlite/searchsql.py",
)
"""Beside them: what copies a database, and reads each row again that it has written; names of statements; and what
looks through rows for pages, and changes no state."""

TESTS = (
    "tests/unit/webhook/test_bulkhead.py",
    "tests/unit/webhook/test_newcomers.py",
    "tests/unit/webhook/test_look_up_places.py",
    "tests/unit/webhook/test_lane_turns.py",
    "tests/unit/loops/test_inflight.py",
    "tests/unit/loops/test_leading.py",
    "tests/unit/loops/test_leading_rounds.py",
    "tests/unit/loops/test_operator_events.py",
    "tests/unit/loops/test_pollresults.py",
    "tests/unit/webhook/test_limits.py",
    "tests/unit/store/test_events_swap.py",
    "tests/unit/store/test_expiries.py",
    "tests/unit/store/test_duetasks.py",
    "tests/unit/loops/test_endings.py",
    "tests/unit/loops/test_clocksteps.py",
    "tests/unit/loops/test_janitor.py",
    "tests/unit/loops/test_backup.py",
    "tests/unit/loops/test_failing.py",
    "tests/unit/loops/test_happenings.py",
    "tests/unit/loops/test_proxy_faults.py",
    "tests/unit/core/test_eventledger.py",
    "tests/unit/core/test_eventledger_bounds.py",
    "tests/unit/core/test_model.py",
    "tests/unit/core/test_ids.py",
    "tests/unit/core/test_urls.py",
    "tests/unit/webhook/test_retry.py",
    "tests/unit/store/test_connectionlock.py",
    "tests/unit/store/test_filewatch.py",
    "tests/unit/store/test_lanes.py",
    "tests/unit/store/test_locks.py",
    "tests/unit/store/test_moves.py",
    "tests/unit/store/test_outbox_lapses.py",
    "tests/unit/store/test_statements.py",
    "tests/unit/loops/test_supervisor.py",
    "tests/unit/upstream/test_troubled.py",
    "tests/unit/upstream/test_turns.py",
    "tests/unit/loops/test_pollshares.py",
    "tests/integration/loops/test_pollshares.py",
    "tests/unit/store/test_writer.py",
    "tests/unit/store/test_writer_begins.py",
    "tests/unit/store/test_writer_recovers.py",
    "tests/unit/store/test_writes.py",
    "tests/integration/loops/test_claim_due.py",
    "tests/integration/loops/test_clock_steps.py",
    "tests/integration/loops/test_deliverer.py",
    "tests/integration/loops/test_missing_names.py",
    "tests/integration/loops/test_proxy_outage.py",
    "tests/integration/loops/test_delivery_places.py",
    "tests/integration/loops/test_delivery_room.py",
    "tests/integration/loops/test_delivery_schedule.py",
    "tests/integration/loops/test_delivery_rate.py",
    "tests/integration/loops/test_isolation.py",
    "tests/integration/api/test_large_bodies.py",
    "tests/integration/app/test_operator.py",
    "tests/integration/app/test_operator_events.py",
    "tests/integration/loops/test_poller.py",
    "tests/integration/loops/test_poll_answers.py",
    "tests/integration/loops/test_poll_limits.py",
    "tests/integration/loops/test_poll_timeouts.py",
    "tests/integration/loops/test_poll_turns.py",
    "tests/integration/loops/test_unknown_tasks.py",
    "tests/integration/loops/test_poller_leads.py",
    "tests/integration/loops/test_poll_history.py",
    "tests/integration/loops/test_poll_records.py",
    "tests/integration/loops/test_refused_tasks.py",
    "tests/integration/loops/test_refused_keys.py",
    "tests/integration/loops/test_locked_tasks.py",
    "tests/integration/loops/test_traced_probes.py",
    "tests/integration/otel/test_spans.py::test_one_trace_from_the_registration_to_the_attempts",
    "tests/integration/otel/test_spans.py::test_what_goes_wrong",
    "tests/integration/store/sqlite/test_opening.py",
    "tests/integration/store/sqlite/test_databasefile.py",
    "tests/integration/store/sqlite/test_lost_file.py",
    "tests/integration/store/sqlite/test_database.py",
    "tests/integration/store/sqlite/test_writer.py",
    "tests/integration/store/sqlite/test_registry.py",
    "tests/integration/store/sqlite/test_tasks.py",
    "tests/integration/store/sqlite/test_outbox.py",
    "tests/integration/store/sqlite/test_housekeeping.py",
    "tests/integration/store/sqlite/test_backup.py",
    "tests/integration/store/sqlite/test_at_once.py",
    "tests/integration/store/sqlite/test_sql.py",
    "tests/integration/store/test_registry.py",
    "tests/integration/store/test_cancelling.py",
    "tests/integration/store/test_lists.py",
    "tests/integration/store/test_search.py",
    "tests/integration/store/test_creates.py",
    "tests/integration/store/test_tasks.py",
    "tests/integration/store/test_settling.py",
    "tests/integration/store/test_task_claims.py",
    "tests/integration/store/test_expiry.py",
    "tests/integration/store/test_pauses.py",
    "tests/integration/store/test_reads.py",
    "tests/integration/store/test_read_records.py",
    "tests/integration/store/test_read_places.py",
    "tests/integration/store/test_read_ends.py",
    "tests/integration/store/test_events.py",
    "tests/integration/store/test_records.py",
    "tests/integration/store/test_attempt_log.py",
    "tests/integration/store/test_outbox.py",
    "tests/integration/store/test_housekeeping.py",
    "tests/integration/store/test_replicas.py",
    "tests/integration/test_simulation.py::test_each_callback_has_a_grace_of_its_own",
    "tests/integration/test_simulation.py::test_a_retry_keeps_its_distance_until_it_is_recorded",
    *(f"tests/integration/test_simulation.py::test_a_seed[{seed}]" for seed in range(5)),
)
"""Fast ones, of which each mutant meets those that run its statement."""


class Equivalent(NamedTuple):
    """A mutant that no test can tell from the original, by what its lines were and are, and why that is."""

    path: str
    was: str
    now: str
    why: str


_BULKHEAD, _DUETASKS = "gateway/webhook/bulkhead.py", "gateway/store/duetasks.py"
_REGISTRY, _TASKS = "gateway/store/registry.py", "gateway/store/tasks.py"
_OUTBOX, _BLOBS = "gateway/store/outbox.py", "gateway/store/sqlite/blobs.py"
_CLAIMS = "gateway/store/sqlite/webhookclaims.py"
_WRITES, _HOUSEKEEPING = "gateway/store/writes.py", "gateway/store/housekeeping.py"
_ROWS, _SQL = "gateway/store/rows.py", "gateway/store/sqlite/sql.py"
_DELIVERSQL = "gateway/store/sqlite/deliversql.py"
_CREATESQL = "gateway/store/sqlite/createsql.py"
_WATCHES, _WATCHSQL = "gateway/store/watches.py", "gateway/store/sqlite/watchsql.py"
_STATEMENTS = "gateway/store/sqlite/statements.py"
_DATABASE, _FILEWATCH = "gateway/store/sqlite/database.py", "gateway/store/sqlite/filewatch.py"
_DATABASEFILE = "gateway/store/sqlite/databasefile.py"
_BACKUPFILE = "gateway/store/sqlite/backupfile.py"
_HEAP, _HEAP_NOTE = "len(self._heap)", "# entries that a heap may have beside as many as are in date"
_READ_OUTCOME = "SELECT {_TASK}, iif(coalesce(length(t.record), 0) = 0 AND length(t.outcome)"
_READ_RECORD = "AND {SMALL}, t.record, NULL), coalesce(length(t.record), 0), t.told_at, t.denied_at"
_LOG_NOTE = "# bytes, other ones each time that the log begins anew"
_EMPTY_NOTE = 'b"" # a log in which nothing stands: when it was written, how large it is, its head'
_RUNNING = "(yield Run(self._watchsql.SELECT_RUNNING, (seq,))).rows:"
_GONE_AT_NOTE = "# when the first may have lost its readers"
_GONE_NOTE = "# the last one that has been seen to, in the order of the index"
_PLACE_NOTE = "# of what is small and asked for now"
_ALONE_PLACE, _OF_ALL = "wish.place = self._place = max([wish.place, *(place", "for place, _, _ in self._row)])"
_SORTED = "wishes = [wish for _, _, wish in sorted(self._row, key=lambda one: one"
_FORGOTTEN = "self._gone, self._gone_at, self._locked_until = (0, 0), 0, 0"
_SYNC_NOTE = "# so often is that much of a backup put on disk: what is left for the end cannot be given up"
_COUNTS = "key in waited_for or"
_EXPIRED = "await self._expiry.run(now, term), max((await self._tasks.unwatch(now) - now) / 1000"

EQUIVALENT = (
    Equivalent(
        _DUETASKS,
        "about = upstream, watchers, since, self._engine.array(list(group.claimed)), limit + 1",
        "about = upstream, watchers, since, self._engine.array(list(group.claimed)), limit + 2",
        "the second one beyond the limit is never looked at",
    ),
    *(
        Equivalent(_WRITES, was, now, "which numbers they are is no matter, but their order")
        for was, now in (
            ("self._asked = 0", "self._asked = 1"),
            (f"self._place = 0 {_PLACE_NOTE}", f"self._place = 1 {_PLACE_NOTE}"),
            ("place: int = 0", "place: int = 1"),
            ("self._asked += 1", "self._asked += 2"),
            ("wish.place = first - 1", "wish.place = first - 2"),
            (f"{_ALONE_PLACE} + 1 {_OF_ALL}", f"{_ALONE_PLACE} + 2 {_OF_ALL}"),
            (f"{_ALONE_PLACE} + 1 {_OF_ALL}", f"{_ALONE_PLACE} + 0 {_OF_ALL}"),
            (f"{_SORTED}[:2])]", f"{_SORTED}[:3])]"),
        )
    ),
    Equivalent(
        _WRITES,
        "rows, last_by_itself = 0, False",
        "rows, last_by_itself = 0, True",
        "it is looked at once there is a batch, and set by then",
    ),
    Equivalent(
        _HOUSEKEEPING,
        "swapped = [False] * len(items)",
        "swapped = [True] * len(items)",
        "each of them is set",
    ),
    Equivalent(_HOUSEKEEPING, "if task_seqs:", "if True:", "of none, none is changed: saves two statements"),
    Equivalent(
        "gateway/store/sqlite/store.py",
        "async def lead(self, name: str, ttl_s: float, *, refused: bool = False) -> int | None:",
        "async def lead(self, name: str, ttl_s: float, *, refused: bool = True) -> int | None:",
        "one process leads everything, whatever it says",
    ),
    Equivalent(
        "gateway/store/lanes.py",
        f"if {_HEAP} > 2 * len(self._at) + _OUT_OF_DATE:",
        f"if {_HEAP} > 1 * len(self._at) + _OUT_OF_DATE:",
        "when exactly what is out of date is left out",
    ),
    Equivalent(
        _OUTBOX,
        "if (yield Rows(self._deliversql.RECORD_ATTEMPTS, rows.recorded(items))).count < len(items):",
        "if ((yield Rows(self._deliversql.RECORD_ATTEMPTS, rows.recorded(items))).count <= len(items)):",
        "counts once more what stands there",
    ),
    *(
        Equivalent(_BULKHEAD, was, now, why)
        for was, now, why in (
            ("if lanes is self._paused:", "if False:", "compares them, and finds none that is new or gone"),
            ("return # none is new or gone", "pass # none is new or gone", "compares them, and finds so"),
            (
                "return bool(self._paused) and holds_back(self._paused, lane) is not None",
                "return (holds_back(self._paused, lane) is not None)",
                "none of no lanes does: saves looking",
            ),
            (
                "if attempt.usage is None or self._limits is None or attempt.sent:",
                "if (attempt.usage is None or attempt.sent):",
                "without limits none has a usage",
            ),
            (
                "return self._failures.get(lane, 0) >= _OPENS_AFTER",
                "return self._failures.get(lane, 1) >= _OPENS_AFTER",
                "one failure is as good as none",
            ),
        )
    ),
    *(
        Equivalent("gateway/webhook/limits.py", was, now, "the longest pause has long been reached")
        for was, now in (
            ("self.failures = min(self.failures + 1, 30)", "self.failures = min(self.failures + 1, 31)"),
            ("self.failures = min(self.failures + 1, 30)", "self.failures = min(self.failures + 1, 29)"),
        )
    ),
    Equivalent(
        "gateway/core/eventledger.py",
        f"return {_COUNTS} (condition.told_at is not None and condition.told_at > now - _SETTLE_MS)",
        f"return {_COUNTS} (condition.told_at is not None and (condition.told_at >= now - _SETTLE_MS))",
        "after just that long nothing is put off any more",
    ),
    Equivalent(
        "gateway/core/urls.py",
        "cached = lru_cache(maxsize=4096)(function)",
        "cached = lru_cache(maxsize=8192)(function)",
        "how many URLs are remembered saves time, and nothing else",
    ),
    Equivalent(
        "gateway/core/urls.py",
        "return cached(url) if len(url) <= _LONG_URL else function(url)",
        "return cached(url) if False else function(url)",
        "that URLs are remembered saves time, and nothing else",
    ),
    *(
        Equivalent("gateway/loops/leading.py", was, now, why)
        for was, now, why in (
            ("self._term = 0", "self._term = 1", "that terms differ counts, not what the first one's number is"),
            ("self._replicas = 0", "self._replicas = 1", "as patient as it is from the start on"),
            ("await asyncio.sleep(0.02)", "await asyncio.sleep(0.04)", "a moment sooner or later"),
        )
    ),
    *(
        Equivalent("gateway/loops/poller.py", was, now, why)
        for was, now, why in (
            (
                "self._term = 0 # the one of this round",
                "self._term = 1 # the one of this round",
                "each round sets it, and before the first one nothing has been learned",
            ),
            (
                f"wait_s = min({_EXPIRED}, 0.001))",
                f"wait_s = min({_EXPIRED}, 0.002))",
                "a moment sooner or later",
            ),
            (
                "if wanted and (refused or available < room):",
                "if (refused or available < room):",
                "none is wanted: saves reading them all to put them in an order",
            ),
        )
    ),
    Equivalent(
        "gateway/loops/expiry.py",
        "self._locked = {seq: until for seq, until in self._locked.items() if until > steady}",
        "self._locked = {seq: until for seq, until in self._locked.items() if (until >= steady)}",
        "no round comes at just that instant, or the next one does it",
    ),
    Equivalent(
        "gateway/loops/expiry.py",
        "wait = {(task.seq, task.expires_at) for task, expired_by in found if expired_by is None}",
        "wait = {(task.seq, task.expires_at) for task, expired_by in found if True}",
        "nobody waits there any more whose time has passed, and so no poll is brought forward",
    ),
    Equivalent(
        "gateway/loops/expiry.py",
        "traces = () if tracing is None else await self._tasks.traces(task.seq)",
        "traces = () if False else await self._tasks.traces(task.seq)",
        "without spans nobody looks at them: saves reading",
    ),
    Equivalent(_OUTBOX, "return 0", "pass", "what has been recorded finds itself there: saves two statements"),
    Equivalent(
        _OUTBOX,
        "if interrupted := [one for one in items if one.attempt.result is AttemptResult.INTERRUPTED]:",
        "if interrupted := [one for one in items if True]:",
        "of the others none is deleted: saves a statement",
    ),
    *(
        Equivalent(_REGISTRY, was, now, why)
        for was, now, why in (
            (
                "counted = self._sql.COUNT_PENDING_LANES if held else self._sql.COUNT_PENDING",
                "counted = self._sql.COUNT_PENDING_LANES if True else self._sql.COUNT_PENDING",
                "comes to the same: saves telling lanes apart",
            ),
            (
                '_, oldest_due_at = owed.get("", (0, None))',
                '_, oldest_due_at = owed.get("", (1, None))',
                "how many they are is not looked at",
            ),
        )
    ),
    *(
        Equivalent("gateway/loops/pollresults.py", was, now, "history has tenths of a second")
        for was, now in (
            (
                "next_ms, why = (0, Why.ENDED) if planned is None else (planned.at - asked.at, planned.why)",
                "next_ms, why = (1, Why.ENDED) if planned is None else (planned.at - asked.at, planned.why)",
            ),
            (
                'return pollhistory.written(0, "registered", claim.due_at - since, Why.FIRST) + one',
                'return pollhistory.written(1, "registered", claim.due_at - since, Why.FIRST) + one',
            ),
        )
    ),
    Equivalent(
        "gateway/loops/happenings.py",
        "took, failing.took = failing.took or set(), set()",
        "took, failing.took = failing.took, set()",
        "it has put a set there itself",
    ),
    Equivalent(_REGISTRY, "if changed:", "if True:", "asks about none, which saves a statement"),
    Equivalent(
        _CLAIMS,
        "waiting = fetch(db, deliversql.SELECT_NEXT_DUE, (*share.lane, limit + 1))",
        "waiting = fetch(db, deliversql.SELECT_NEXT_DUE, (*share.lane, limit + 2))",
        "the second one beyond the limit is never looked at",
    ),
    Equivalent(
        _BLOBS,
        'with db.blobopen("tasks", column, seq, readonly=True) as blob:',
        'with db.blobopen("tasks", column, seq, readonly=False) as blob:',
        "nobody writes into it",
    ),
    *(
        Equivalent(_WATCHES, "if sum(map(len, parts)) > SMALL:", now, "what is there is not written")
        for now in ("if True:", "if (sum(map(len, parts)) >= SMALL):")
    ),
    Equivalent("gateway/loops/deliverer.py", "if bulkhead.free:", "if True:", "claims nothing: saves asking"),
    Equivalent(
        "gateway/loops/deliverer.py",
        "if len(body) <= SMALL:",
        "if (len(body) < SMALL):",
        "one of just that size may be signed in either place",
    ),
    *(
        Equivalent("gateway/store/lanes.py", was, now, "when exactly what is out of date is left out")
        for was, now in (
            (f"_OUT_OF_DATE = 64 {_HEAP_NOTE}", f"_OUT_OF_DATE = 65 {_HEAP_NOTE}"),
            (f"_OUT_OF_DATE = 64 {_HEAP_NOTE}", f"_OUT_OF_DATE = 63 {_HEAP_NOTE}"),
            (f"if {_HEAP} > 2 * len(self._at) + _OUT_OF_DATE:", f"if ({_HEAP} >= 2 * len(self._at) + _OUT_OF_DATE):"),
            (f"if {_HEAP} > 2 * len(self._at) + _OUT_OF_DATE:", f"if {_HEAP} > 3 * len(self._at) + _OUT_OF_DATE:"),
        )
    ),
    Equivalent(
        _DUETASKS,
        '_ALWAYS: Lead = ("", 0) # no other process can',
        '_ALWAYS: Lead = ("", 1) # no other process can',
        "that it is one and the same counts",
    ),
    Equivalent(_DUETASKS, "group.note(0)", "group.note(1)", "long ago"),
    Equivalent(
        _DUETASKS,
        "while not self._shared and (found := await self._after(upstream, watchers)):",
        "while ((found := (await self._after(upstream, watchers)))):",
        "what nobody leads yet is not noted: saves looking",
    ),
    Equivalent(
        _DUETASKS,
        "return # ``open`` has found out",
        "pass # ``open`` has found out",
        "notes it once more: saves looking",
    ),
    Equivalent(
        _TASKS,
        "expiries = [item for item in items if item.expired_by is not None]",
        "expiries = [item for item in items if True]",
        "an end that is written a second time finds nothing that waits",
    ),
    *(
        Equivalent(_OUTBOX, was + note, now + note, "long ago")
        for was, now, note in (
            (
                "self._lanes.note(heapq.heappop(self._lapses)[1], 0)",
                "self._lanes.note(heapq.heappop(self._lapses)[1], 1)",
                " # it has long been due",
            ),
            (
                "return due_at if self._engine.shared else 0",
                "return due_at if self._engine.shared else 1",
                "",
            ),
        )
    ),
    Equivalent(
        _ROWS,
        "FOREVER = 2**62 # later than any instant, above any seq",
        "FOREVER = 2**61 # later than any instant, above any seq",
        "as late, and as high",
    ),
    Equivalent(
        _STATEMENTS,
        "values += [None, *[0] * (columns - 1)] * (size - len(its)) # a NULL takes longer to bind than a number",
        "values += [None, *[1] * (columns - 1)] * (size - len(its)) # a NULL takes longer to bind than a number",
        "a row that begins with a NULL is never looked at",
    ),
    Equivalent(
        _DELIVERSQL,
        "UPDATE callbacks SET state = made.state, attempts = max(attempts, made.number),",
        "UPDATE callbacks SET state = made.state,",
        "COUNT_ATTEMPTS follows, and would do it: here it saves writing the row again",
    ),
    Equivalent(
        _DELIVERSQL,
        "FROM made WHERE callbacks.seq = made.seq AND callbacks.attempts < made.number",
        "FROM made WHERE callbacks.seq = made.seq AND callbacks.attempts <= made.number",
        "writes the number that stands there",
    ),
    Equivalent(
        _CREATESQL,
        "(SELECT coalesce(max(number), 0) + 1 FROM creates WHERE client = :client))",
        "(SELECT coalesce(max(number), 1) + 1 FROM creates WHERE client = :client))",
        "how far one is behind the last counts, not where the numbers begin",
    ),
    Equivalent(
        _CREATESQL,
        "SELECT client FROM named WHERE client IS NOT NULL",
        "SELECT client FROM named WHERE true",
        "of nobody nothing is removed: it saves a statement",
    ),
    *(
        Equivalent(
            _WATCHSQL,
            "instr(',' || watchers || ',', ',' || excluded.watchers || ',') > 0, watchers, (",
            now,
            "no name is put into the list a second time: it saves making the list anew",
        )
        for now in (
            "instr(',' || watchers || ',', ',' || excluded.watchers || ',') > 1, watchers, (",
            "false, watchers, (",
        )
    ),
    *(
        Equivalent(_WATCHSQL, was, now, why)
        for was, now, why in (
            (
                f"{_READ_OUTCOME} <= {{SMALL}}, t.outcome, NULL),",
                f"{_READ_OUTCOME} < {{SMALL}}, t.outcome, NULL),",
                "one of just that size may be asked for by itself",
            ),
            (
                f"iif(length(t.record) BETWEEN 1 {_READ_RECORD}",
                f"iif(length(t.record) BETWEEN 2 {_READ_RECORD}",
                "no JSON object is that short",
            ),
        )
    ),
    Equivalent(
        _WATCHSQL,
        "read_until = max(coalesce(read_until, 0), excluded.read_until),",
        "read_until = max(coalesce(read_until, 1), excluded.read_until),",
        "long ago",
    ),
    Equivalent(
        _SQL,
        "MOVE_WEBHOOKS = \"UPDATE callbacks SET next_attempt_at = next_attempt_at + :step WHERE state = 'pending'\"",
        'MOVE_WEBHOOKS = "UPDATE callbacks SET next_attempt_at = next_attempt_at + :step WHERE true"',
        "only what is pending has a next attempt: the condition is there for its index",
    ),
    Equivalent(
        _SQL,
        "SELECT seq FROM callbacks WHERE ended_at IS NOT NULL AND (",
        "SELECT seq FROM callbacks WHERE true AND (",
        "only what has ended is in the states that follow: the condition is there for its index",
    ),
    Equivalent(
        _FILEWATCH,
        f"_LOG_HEAD = 32 {_LOG_NOTE}",
        f"_LOG_HEAD = 33 {_LOG_NOTE}",
        "the high byte of a number that never becomes so large",
    ),
    Equivalent(
        _FILEWATCH,
        "_FILE_STAYS = (slice(24), slice(40, 92))",
        "_FILE_STAYS = (slice(23), slice(40, 92))",
        "with another byte there SQLite itself takes it for no database",
    ),
    *(
        Equivalent(_FILEWATCH, was, now, "no file is that old")
        for was, now in (
            (f"_EMPTY = (0, 0), {_EMPTY_NOTE}", f"_EMPTY = (1, 0), {_EMPTY_NOTE}"),
            ("self._written = 0, size", "self._written = 1, size"),
        )
    ),
    *(
        Equivalent(_WATCHES, was, now, "long ago")
        for was, now in (
            (f"self._gone_at = 0 {_GONE_AT_NOTE}", f"self._gone_at = 1 {_GONE_AT_NOTE}"),
            (f"self._gone = (0, 0) {_GONE_NOTE}", f"self._gone = (1, 0) {_GONE_NOTE}"),
            (f"self._gone = (0, 0) {_GONE_NOTE}", f"self._gone = (0, 1) {_GONE_NOTE}"),
            ("self._gone_at = 0", "self._gone_at = 1"),
            (_FORGOTTEN, f"{_FORGOTTEN[:-12]}(1, 0), 0, 0"),
            (_FORGOTTEN, f"{_FORGOTTEN[:-12]}(0, 1), 0, 0"),
            (_FORGOTTEN, f"{_FORGOTTEN[:-12]}(0, 0), 1, 0"),
        )
    ),
    *(
        Equivalent(
            _WATCHES, f"if len(record) > SMALL and {_RUNNING}", now, "what is there is not written: saves looking"
        )
        for now in (f"if {_RUNNING}", f"if (len(record) >= SMALL) and {_RUNNING}")
    ),
    *(
        Equivalent(_WATCHES, was, "if True:", why)
        for was, why in (
            ("if gone:", "does it to none, which saves statements"),
            ("if seqs:", "does it to none, which saves statements"),
            ("if left:", "counts anew, and comes to the same"),
        )
    ),
    Equivalent(
        _DATABASE,
        "self._answers = 0 # how often the database has been asked",
        "self._answers = 1 # how often the database has been asked",
        "how much more often counts, not where the count begins",
    ),
    Equivalent(_DATABASE, "self._answers += 1", "self._answers += 2", "that it is more counts, not by how much"),
    Equivalent(
        _DATABASE,
        "if self.lost is None and problem not in CHANGES:",
        "if (problem not in CHANGES):",
        "what is in the file is put there once more: saves looking",
    ),
    Equivalent(
        _DATABASE,
        "if size <= _CHECKED_BYTES:",
        "if (size < _CHECKED_BYTES):",
        "one of just that size may be checked or not",
    ),
    Equivalent(_DATABASEFILE, "return 0", "return 1", "a millisecond is no step of the clock"),
    Equivalent(
        "gateway/store/sqlite/backupfile.py",
        "_GIVE_UP_AGAIN_S = 0.05",
        "_GIVE_UP_AGAIN_S = 0.1",
        "a moment sooner or later",
    ),
    Equivalent(
        _DATABASE,
        "_LOCK_WAIT_S = 1.0 # how long another process may hold the file before it is refused",
        "_LOCK_WAIT_S = 2.0 # how long another process may hold the file before it is refused",
        "a second sooner or later: whoever has it keeps it",
    ),
    *(
        Equivalent(_DATABASE, was, now, "when exactly a part of a backup is put on disk")
        for was, now in (
            (f"_BACKUP_SYNC = 64 {_SYNC_NOTE}", f"_BACKUP_SYNC = 65 {_SYNC_NOTE}"),
            (f"_BACKUP_SYNC = 64 {_SYNC_NOTE}", f"_BACKUP_SYNC = 63 {_SYNC_NOTE}"),
            ("turns = count(1)", "turns = count(2)"),
            ("turns = count(1)", "turns = count(0)"),
            ("if turn % _BACKUP_SYNC == 0:", "if turn % _BACKUP_SYNC == 1:"),
            ("if turn % _BACKUP_SYNC == 0:", "if True:"),
        )
    ),
    Equivalent(
        _DATABASEFILE,
        "return max(0, last.stat().st_mtime_ns - now_ns) // 1_000_000",
        "return max(1, last.stat().st_mtime_ns - now_ns) // 1_000_000",
        "a nanosecond is no millisecond",
    ),
)
