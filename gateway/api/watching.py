"""Tasks that are polled for clients who read them: when that begins, and for how long it goes on.

Owns the wishes that reads and creates put to the store, and what of an answer is kept with them. Called by ``reading``
and ``creating``. None of it may cost a client his answer: where the store fails, or readers wait for too many tasks,
reads are forwarded.
"""

import asyncio
from contextlib import suppress
from typing import NamedTuple

from gateway.api.createrequest import CreateRequest, is_form
from gateway.api.proxied import Proxied
from gateway.core.claims import DueTask
from gateway.core.clock import Moment
from gateway.core.errors import StoreError
from gateway.core.memory import SMALL
from gateway.core.reads import PollAgain, ReadTask, ReadWatch, Watched
from gateway.upstream.answer import TELLS, PollKind, PollResult
from gateway.upstream.envelope import new_record

_SLACK_MS = 1000  # so much earlier than a waiting reader's time is over a watch may end
_LASTS = 1.5
"""A watch is begun and prolonged for so many times as long as it has to last: not each read is written down then."""
_END_KEPT_MS = 60_000
"""For so long, at least, an end is kept for readers that the next poll will store."""


class Newer(NamedTuple):
    """What is to be told in the place of an answer, where more was told while that was on its way."""

    record: bytes | None = None
    stored: bool = False
    """Whether the store has it: another replica was told."""


class Watching:
    """The watches of one upstream's tasks."""

    def __init__(self, proxied: Proxied, watch_s: float) -> None:
        """``watch_s``: how long each watch lasts without a read, at least; 0: there are none."""
        self._registry = proxied.registry
        self._clock = proxied.clock
        self._upstream = proxied.upstream
        self._calls = proxied.calls
        self._timetable = proxied.timetable
        self._last_running = proxied.last_running
        self._watch_ms = round(watch_s * 1000)
        self._lasts_ms = round(_LASTS * self._watch_ms)
        self._beginning: dict[str, asyncio.Task[None]] = {}  # by task id: watches that are being stored

    def beginning(self, task_id: str, write: asyncio.Task[None]) -> None:
        """Hear that the watch of a task that was created is being stored; the create's answer does not wait for it."""
        self._beginning[task_id] = write
        write.add_done_callback(lambda _: self._beginning.pop(task_id, None))

    async def begun(self, task_id: str) -> None:
        """Wait for the watch of a task that was created just now: who reads it at once is answered for as well."""
        if (write := self._beginning.get(task_id)) is not None:
            await asyncio.wait([write])

    def is_due(self, known: ReadTask, client: str, for_s: float) -> bool:
        """Whether a running task's reader, who may wait for so long, has to be taken down: each time is a write."""
        left_ms = 0 if known.read_until is None else known.read_until - self._clock.now()
        ends_early = left_ms < max(self._watch_ms, for_s * 1000 - _SLACK_MS)
        return self._watch_ms > 0 and (ends_early or client not in known.watchers.split(","))

    async def prolong(self, known: ReadTask, client: str, for_s: float) -> None:
        """Have a task polled on for a reader."""
        now = self._clock.now()
        await self._wish(
            ReadWatch(
                upstream=self._upstream.name,
                task_id=known.task.task_id,
                client=client,
                at=now,
                read_until=_full_second(now + max(self._lasts_ms, round(for_s * 1000))),
                next_poll_at=now,
                begins=known.read_until is None,
                record=None if known.record_bytes else self._last_running(known),
            )
        )

    async def told(self, task_id: str, client: str, result: PollResult, known: ReadTask | None, asked: Moment) -> Newer:
        """Begin to watch a task that the upstream has just told of, or keep what it told of one that has ended.

        Where others that are polled for wait for that, they need not wait for the schedule's next poll. ``asked``: when
        it was asked.
        """
        last, ended = self._upstream.last_answers, result.kind is PollKind.TERMINAL
        if result.kind not in TELLS:
            return Newer()
        if not last.keep(task_id, result.record, asked.steady, ended=ended):
            return Newer(last.ended(task_id) or last.running(task_id))
        if ended:
            await self.poll_again(task_id, result.record)
        elif known is not None and known.denied_at is not None:
            await self.poll_again(task_id)
        begins = not ended and self._watch_ms > 0
        return Newer(stored=begins and await self._begin(task_id, client, result, known, asked))

    async def _begin(
        self, task_id: str, client: str, result: PollResult, known: ReadTask | None, asked: Moment
    ) -> bool:
        """Return whether more was told of it meanwhile, and stored."""
        now = began_at = self._clock.now()
        born_at, model, last_polled_at = result.task_created_at, result.model, None
        if known is not None:
            task = known.task
            born_at, model, last_polled_at = born_at or task.born_at, model or task.model, task.last_polled_at
            if task.next_poll_at is not None:  # others wait for it
                began_at = task.created_at
        claim = DueTask(
            seq=0,
            upstream=self._upstream.name,
            watchers=client,
            task_id=task_id,
            created_at=began_at,
            born_at=born_at,
            model=model,
            polls=0 if last_polled_at is None else 1,
            failures=0,
            last_polled_at=last_polled_at,
            due_at=now,
        )
        planned = self._timetable.running(claim, model, self._timetable.began_at(born_at, began_at), now)
        next_poll_at = planned.not_before(now + round((result.retry_after_s or 0.0) * 1000)).at
        watched = await self._wish(
            ReadWatch(
                upstream=self._upstream.name,
                task_id=task_id,
                client=client,
                at=now,
                read_until=_full_second(now + self._lasts_ms),
                next_poll_at=next_poll_at,
                told=True,
                begins=known is None or known.read_until is None,
                born_at=began_at if born_at is None else born_at,  # from now on the upstream has told of it
                model=model,
                record=result.record,
                asked_at=asked.at,
            )
        )
        return watched is not None and watched.overtaken

    async def created(self, task_id: str, client: str, asked: CreateRequest, result: PollResult) -> None:
        """Begin to watch a task that was created just now; ``result``: what the create's answer tells.

        Until the first poll it is told of as that does, where it is a record, or else as the upstream would by then.
        """
        record, now = None, self._clock.now()
        if self._calls.created_is_record:
            record = result.record
            if result.kind is PollKind.TERMINAL:
                self._upstream.last_answers.keep(task_id, record, self._clock.monotonic(), ended=True)
                return
        else:
            param = asked.body if len(asked.body) <= SMALL and not is_form(asked.content_type) else None
            record = new_record(self._upstream.profile, task_id, asked.model, param, now)
        if not self._watch_ms:
            return
        await self._wish(
            ReadWatch(
                upstream=self._upstream.name,
                task_id=task_id,
                client=client,
                at=now,
                read_until=_full_second(now + self._lasts_ms),
                next_poll_at=self._timetable.first_poll_at(now, client, asked.model, new=True),
                begins=True,
                model=asked.model,
                record=record,
            )
        )

    async def poll_again(self, task_id: str, record: bytes | None = None) -> None:
        """Have a task asked about at once, where it is polled; ``record``: what its end is told as until then."""
        now = self._clock.now()
        kept_until = now + max(self._lasts_ms, _END_KEPT_MS)
        wish = PollAgain(upstream=self._upstream.name, task_id=task_id, at=now, record=record, read_until=kept_until)
        with suppress(StoreError):  # as below
            await self._registry.poll_again(wish)

    async def _wish(self, wish: ReadWatch) -> Watched | None:
        with suppress(StoreError):  # the store tells of itself
            return await self._registry.watch(wish)
        return None


def _full_second(at: int) -> int:
    """Return the next full second: what ends together is seen to together, and each time is a write."""
    return -(-at // 1000) * 1000
