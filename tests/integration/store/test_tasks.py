"""How every store keeps the tasks that are to be polled, from one poll to the next: the ``TaskQueue`` port."""

from gateway.core.model import PollRecord, Settlement
from gateway.core.pollhistory import Why, written
from gateway.core.tracing import MOST_TRACES
from gateway.store import Store
from tests.claims import claim_tasks
from tests.storing import ABANDONED, NOW, claim_task, look, new, registered, settle


async def test_a_poll_that_ends_nothing_is_counted(store: Store) -> None:
    """A reschedule keeps when and with which error; errors in a row are counted, a good answer ends the row."""
    await registered(store)
    failures = []
    for n, error in enumerate(("refused", "refused again", None), 1):
        due = await claim_task(store, NOW + n * 1000)
        failures.append(due.failures)
        await store.tasks.reschedule(
            PollRecord(
                seq=due.seq,
                upstream="up",
                polled_at=NOW + n * 1000,
                next_poll_at=NOW + (n + 1) * 1000,
                error=error,
            )
        )
        task = await store.registry.get_task("ann", "task-1")
        assert task is not None
        assert (task.polls, task.last_polled_at, task.last_error) == (n, NOW + n * 1000, error)
        assert task.next_poll_at == NOW + (n + 1) * 1000
    assert failures == [0, 1, 2]
    last = await claim_task(store, NOW + 9000)
    assert (last.failures, last.polls) == (0, 3)


async def test_what_a_poll_told_of_its_task_is_kept(store: Store) -> None:
    """Its model and its birth, until another poll tells them anew; of that task alone."""
    await store.registry.register([new("task-1"), new("task-2")])
    told: list[tuple[int | None, str | None]] = [(NOW - 9000, "m"), (None, None), (NOW - 8000, "n")]
    for born_at, model in told:
        (one, other), _ = await claim_tasks(store, "up", NOW, 10)
        await store.tasks.release([other])
        await store.tasks.reschedule(
            PollRecord(
                seq=one.seq,
                upstream="up",
                polled_at=NOW,
                next_poll_at=NOW - 1,
                error=None,
                born_at=born_at,
                model=model,
            )
        )
        (one, other), _ = await claim_tasks(store, "up", NOW, 10)
        expected = (born_at or NOW - 9000, model or "m")
        assert (one.born_at, one.model) == expected
        assert (other.born_at, other.model, other.polls, other.due_at) == (None, None, 0, NOW)
        await store.tasks.release([one])
        await store.tasks.release([other])


async def test_a_reschedule_after_the_end_changes_nothing(store: Store) -> None:
    """A poll that was under way while the task settled does not make it due again."""
    callback = await registered(store)
    due = await claim_task(store)
    await settle(store, callback)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW + 5, next_poll_at=NOW + 9, error="late")
    )
    task = (await look(store, callback)).task
    assert (task.polls, task.next_poll_at, task.last_error) == (1, None, None)


async def test_a_reschedule_does_not_wake_an_idle_task(store: Store) -> None:
    """The last callback was cancelled during the poll: nobody waits, so nothing is asked again."""
    callback = await registered(store)
    due = await claim_task(store)
    await store.registry.cancel("ann", callback.id, NOW)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None)
    )
    assert await claim_tasks(store, "up", NOW + 99, 10) == ([], None)


async def test_poll_now_brings_a_waiting_task_forward(store: Store) -> None:
    """Only tasks that wait for a later poll move; a settled one does not come back.

    Nor does one move of whose callbacks none has passed: the one that had was cancelled as the question was on its way.
    """
    later = await registered(store, new("later", first_poll_at=NOW + 5000, timeout_s=1))
    earlier = await registered(store, new("earlier", first_poll_at=NOW - 5000, timeout_s=1))
    ended = await registered(store, new("ended", timeout_s=1))
    await settle(store, ended)
    cancelled = await registered(store, new("cancelled", first_poll_at=NOW + 5000, timeout_s=1))
    await registered(store, new("cancelled", url="https://hooks.test/other", first_poll_at=NOW + 5000))
    await store.registry.cancel("ann", cancelled.id, NOW)
    await store.tasks.poll_now("up", [c.task.seq for c in (later, earlier, ended, cancelled)], NOW + 1000)
    assert (await look(store, later)).task.next_poll_at == NOW + 1000
    assert (await look(store, earlier)).task.next_poll_at == NOW - 5000
    assert (await look(store, ended)).task.next_poll_at is None
    assert (await look(store, cancelled)).task.next_poll_at == NOW + 5000


async def test_the_first_and_the_last_polls_are_kept(store: Store) -> None:
    """With the one that ended it; and nothing of them of a task that begins anew."""
    made = await registered(store)
    for number in range(30):
        due = await claim_task(store, NOW + number * 1000)
        told = written(number * 1000, "running", 1000, Why.LEARNED)
        told = told if number else written(0, "registered", 0, Why.FIRST) + told
        await store.tasks.reschedule(
            PollRecord(
                seq=due.seq,
                upstream="up",
                polled_at=NOW + number * 1000,
                next_poll_at=NOW + (number + 1) * 1000,
                error=None,
                told=told,
            )
        )
    polls = await store.registry.polls((await look(store, made)).task)
    assert [poll.at_ms // 1000 for poll in polls] == [0, 0, 1, 2, 3, *range(19, 30)]
    assert {place: poll.left_out for place, poll in enumerate(polls) if poll.left_out} == {5: 15}
    due = await claim_task(store, NOW + 30_000)
    told = written(30_000, "not_known", 0, Why.ENDED)
    await store.tasks.settle(
        Settlement(upstream="up", seq=due.seq, outcome=ABANDONED, settled_at=NOW + 30_000, polls=1, told=told)
    )
    last = (await store.registry.polls((await look(store, made)).task))[-1]
    assert (last.at_ms, last.came, last.why) == (30_000, "not_known", Why.ENDED)
    again = await registered(store, new(client="bob", at=NOW + 40_000))
    assert await store.registry.polls(again.task) == []


async def test_the_traces_of_those_who_wait(store: Store) -> None:
    """In the order of registration, of a task's waiting callbacks that have one, and not of more than are told of."""
    first = await registered(store, new(trace="00-1-1-01 rojo=1"))
    await registered(store, new(url="https://app.example.com/untraced"))
    gone = await registered(store, new(url="https://app.example.com/gone", trace="00-2-2-01"))
    await registered(store, new("task-2", trace="00-3-3-01"))
    await store.registry.cancel("ann", gone.id, NOW)
    assert await store.tasks.traces(first.task.seq) == ["00-1-1-01 rojo=1"]
    many = [new(url=f"https://app.example.com/{number}", trace=f"00-{number}-1-01") for number in range(MOST_TRACES)]
    await store.registry.register(many)
    traces = await store.tasks.traces(first.task.seq)
    assert len(traces) == MOST_TRACES
