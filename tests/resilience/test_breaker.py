"""Breakers within one process, on a real Redis; a second `Breakers` stands for a second process."""

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from apps.resilience import breakers as module
from apps.resilience import store
from apps.resilience.breaker import RETRY_AFTER, BreakerOpen, CircuitBreaker
from apps.resilience.breakers import Breakers, BreakersAway
from apps.resilience.circuit import BreakerMisconfigured, BreakerSettings, State
from tests.houses import becomes
from tests.resilience.conftest import QUICK

STAYS_OPEN = BreakerSettings(open_seconds=600)


def fail(breaker: CircuitBreaker, times: int = 5) -> None:
    for _ in range(times):
        breaker.acquire().failed(0.1)


def becomes_state(breaker: CircuitBreaker, state: State) -> None:
    becomes(lambda: breaker.state is state)


def counted(breakers: Breakers, name: str) -> tuple[int, int, int]:
    """What Redis has counted."""
    for status in breakers.statuses():
        if status["name"] == name:
            return status["calls"], status["failures"], status["slow"]
    return 0, 0, 0


def half_open(breakers: Breakers, name: str) -> CircuitBreaker:
    breaker = breakers.named(name)
    fail(breaker)
    becomes_state(breaker, State.HALF_OPEN)
    return breaker


def refused(breaker: CircuitBreaker) -> BreakerOpen:
    with pytest.raises(BreakerOpen) as refusal:
        breaker.acquire()
    return refusal.value


# --- Opening ---------------------------------------------------------------------------------------------------------


def test_what_one_process_has_suffered_another_is_spared(process, name):
    ours, theirs = process(settings=STAYS_OPEN).named(name), process(settings=STAYS_OPEN).named(name)
    fail(ours, 3)
    fail(theirs, 2)
    becomes_state(ours, State.OPEN)
    becomes_state(theirs, State.OPEN)
    refusal = refused(theirs)
    assert (refusal.code, refusal.status, refusal.retryable) == ("breaker.open", 503, True)
    assert 0 < refusal.retry_after <= 600
    assert name in refusal.detail


def test_calls_of_many_threads_are_all_counted(process, name):
    breakers = process(settings=BreakerSettings(window_seconds=86_400, minimum_failures=10**6))
    breaker = breakers.named(name)

    def call():
        for number in range(1000):
            permit = breaker.acquire()
            permit.failed(0.1) if number % 4 == 0 else permit.succeeded(9.0 if number % 4 == 1 else 0.1)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    becomes(lambda: counted(breakers, name) == (8000, 2000, 2000))


def test_closing_tells_what_has_ended_last(process, name):
    breakers = process()
    fail(breakers.named(name), 3)
    breakers.close()
    assert counted(process(), name) == (3, 3, 0)


def test_a_status_says_what_opened_it_and_until_when(process, name):
    breakers = process(settings=STAYS_OPEN)
    breaker = breakers.named(name)
    breaker.acquire().succeeded(0.1)
    fail(breaker)
    becomes_state(breaker, State.OPEN)
    [status] = [each for each in breakers.statuses() if each["name"] == name]
    assert (status["state"], status["version"]) == ("open", 1)
    assert (status["calls"], status["failures"], status["slow"], status["failure_rate"]) == (6, 5, 0, 5 / 6)
    assert 0 < status["retry_after"] <= 600
    assert status["open_until"] > datetime.now(UTC)
    assert breaker.status()["version"] == 1


def test_a_status_of_one_without_calls_knows_no_rate(process, name):
    status = process().named(name).status()
    assert status["state"] == "closed"
    assert status["failure_rate"] is status["retry_after"] is status["open_until"] is None


def test_calls_that_began_before_a_change_of_state_are_not_counted_after_it(process, name):
    breakers = process()
    breaker = breakers.named(name)
    begun = [breaker.acquire() for _ in range(5)]
    breakers.reset(name)
    becomes(lambda: breaker.circuit.version == 1)
    for permit in begun:
        permit.failed(60)
    breaker.acquire().succeeded(0.1)
    becomes(lambda: counted(breakers, name) == (1, 0, 0))
    assert breaker.state is State.CLOSED


# --- What counts -----------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The caller's own mistake."""


def test_errors_that_say_nothing_about_the_dependency_are_not_counted(process, name):
    breakers = process(settings=replace(QUICK, ignore=(Refused,)))
    breaker = breakers.named(name)
    breaker.acquire().failed(0.1, Refused())
    with pytest.raises(LookupError), breaker.guard(ignore=lambda error: "ours" in str(error)):
        raise LookupError("ours")
    with pytest.raises(BreakerOpen), breaker.guard():
        raise BreakerOpen("something further down is open")
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt
    with pytest.raises(LookupError), breaker.guard(ignore=(Refused,)):
        raise LookupError("theirs")
    with breaker.guard():
        pass
    becomes(lambda: counted(breakers, name) == (2, 1, 0))


def test_a_block_may_say_itself_that_its_call_has_failed(process, name):
    breakers = process()
    with breakers.named(name).guard() as permit:
        permit.failed(7.0)
        permit.succeeded(0.1)
    becomes(lambda: counted(breakers, name) == (1, 1, 1))


def test_nothing_is_slow_without_a_limit(process, name):
    breakers = process(settings=replace(QUICK, slow_seconds=None))
    breakers.named(name).acquire().succeeded(3600)
    becomes(lambda: counted(breakers, name) == (1, 0, 0))


async def test_a_cancelled_call_is_not_counted(process, name):
    breakers = process()
    breaker = breakers.named(name)

    async def call(ends: asyncio.Event) -> None:
        async with breaker.guard():
            await ends.wait()

    endless, ended = asyncio.create_task(call(asyncio.Event())), asyncio.Event()
    ending = asyncio.create_task(call(ended))
    await asyncio.sleep(0)
    endless.cancel()
    ended.set()
    await asyncio.wait([endless, ending])
    assert endless.cancelled()
    await asyncio.to_thread(breakers.close)
    assert counted(breakers, name) == (1, 0, 0)


# --- Trying it out ---------------------------------------------------------------------------------------------------


def test_two_successes_close_it(process, name):
    breaker = half_open(process(), name)
    first, second = breaker.acquire(), breaker.acquire()
    assert refused(breaker).retry_after == RETRY_AFTER
    first.succeeded(0.1)
    second.succeeded(0.1)
    becomes_state(breaker, State.CLOSED)
    assert breaker.status()["version"] == 3


def test_one_success_does_not(process, name):
    breakers = process()
    breaker = half_open(breakers, name)
    breaker.acquire().succeeded(0.1)
    breaker.acquire().released()
    breakers.close()
    assert [status["state"] for status in breakers.statuses() if status["name"] == name] == ["half_open"]


@pytest.mark.parametrize("ending", [lambda permit: permit.failed(0.1), lambda permit: permit.succeeded(6.0)])
def test_a_failed_or_slow_trial_opens_it_again(process, name, ending):
    breaker = half_open(process(), name)
    version = breaker.status()["version"]
    ending(breaker.acquire())
    becomes(lambda: breaker.status()["version"] > version)
    becomes(lambda: breaker.circuit.openings == 2)


def test_the_place_of_a_released_trial_is_free_again(process, name):
    breaker = half_open(process(), name)
    held, released = breaker.acquire(), breaker.acquire()
    refused(breaker)
    released.released()
    becomes(lambda: taken(breaker))
    held.succeeded(0.1)


def test_a_check_takes_no_place_away(process, name):
    breaker = half_open(process(settings=replace(QUICK, trial_calls=1)), name)
    breaker.check()
    permit = breaker.acquire()
    breaker.check()
    permit.succeeded(0.1)
    becomes_state(breaker, State.CLOSED)


def test_a_check_refuses_while_it_is_open(process, name):
    breaker = process(settings=STAYS_OPEN).named(name)
    breaker.check()
    fail(breaker)
    becomes_state(breaker, State.OPEN)
    with pytest.raises(BreakerOpen):
        breaker.check()


def taken(breaker: CircuitBreaker) -> object:
    try:
        return breaker.acquire()
    except BreakerOpen:
        return None


async def test_a_cancelled_question_takes_no_place_away(process, own_redis, name):
    breaker = half_open(process(own_redis.url, replace(QUICK, trial_calls=1)), name)
    asking = asyncio.create_task(breaker.acquire_async())
    await asyncio.sleep(0)  # it has asked
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    permit = await asyncio.to_thread(becomes, lambda: taken(breaker))
    permit.succeeded(0.1)
    await asyncio.to_thread(becomes_state, breaker, State.CLOSED)


async def test_asking_for_a_trial_leaves_the_event_loop_free(process, name):
    breaker = await asyncio.to_thread(half_open, process(), name)
    turns = 0
    asking = asyncio.create_task(breaker.acquire_async())
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1
    (await asking).succeeded(0.1)
    async with breaker.guard():
        pass
    await asyncio.to_thread(becomes_state, breaker, State.CLOSED)


# --- Operators -------------------------------------------------------------------------------------------------------


def test_an_operator_refuses_all_calls_everywhere(process, name):
    breaker = process().named(name)
    breaker.acquire().succeeded(0.1)
    process().force_open(name)
    becomes_state(breaker, State.FORCED_OPEN)
    assert refused(breaker).retry_after is None


def test_a_process_that_has_just_begun_lets_through_no_call_that_is_switched_off(process, name):
    process().force_open(name)

    for first_use in (CircuitBreaker.acquire, CircuitBreaker.check):
        with pytest.raises(BreakerOpen):
            first_use(process().named(name))


async def test_nor_does_its_event_loop(process, name):
    process().force_open(name)

    with pytest.raises(BreakerOpen):
        async with process().named(name).guard():
            pass


def test_an_operator_lets_all_calls_through_uncounted(process, name):
    breakers, operator = process(), process()
    breaker = breakers.named(name)
    breaker.acquire().released()
    operator.disable(name)
    becomes_state(breaker, State.DISABLED)
    fail(breaker, 10)
    breakers.close()
    assert counted(operator, name) == (0, 0, 0)
    assert breaker.state is State.DISABLED


def test_a_reset_closes_what_was_open(process, name):
    breaker = process(settings=STAYS_OPEN).named(name)
    fail(breaker)
    becomes_state(breaker, State.OPEN)
    process().reset(name)
    becomes_state(breaker, State.CLOSED)
    assert breaker.acquire()


def test_what_an_operator_said_does_not_expire(process, own_redis):
    breakers = process(own_redis.url)
    breakers.force_open("a")
    breakers.reset("b")
    client = own_redis.client()
    assert client.ttl("netra:breaker:a") == -1
    assert client.ttl("netra:breaker:b") > 0


def test_a_change_is_pushed(process, name, monkeypatch):
    monkeypatch.setattr(module, "POLL_EVERY", 3600.0)
    breakers = process()
    breaker = breakers.named(name)
    breaker.acquire().succeeded(0.1)
    becomes(lambda: counted(breakers, name) == (1, 0, 0))  # the first poll is over
    becomes(lambda: breakers._store._pubsub.subscribed)
    process().force_open(name)
    becomes_state(breaker, State.FORCED_OPEN)


def test_a_change_is_found_when_the_push_is_lost(process, name, monkeypatch):
    monkeypatch.setattr(store, "CHANNEL", "elsewhere")
    breakers = process()
    breaker = breakers.named(name)
    breaker.acquire().succeeded(0.1)
    becomes(lambda: counted(breakers, name) == (1, 0, 0))
    process().force_open(name)
    becomes_state(breaker, State.FORCED_OPEN)


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_one_set_of_settings(process, name):
    breakers = process()
    breaker = breakers.named(name, STAYS_OPEN)
    assert breakers.named(name) is breakers.named(name, STAYS_OPEN) is breaker
    with pytest.raises(BreakerMisconfigured, match=name):
        breakers.named(name, QUICK)


def test_a_circuit_that_makes_no_sense_fails_no_call_and_can_be_reset(process, own_redis):
    client = own_redis.client()
    client.set("netra:breaker:a", '{"state": "elsewhere", "version": 1}')
    breakers = process(own_redis.url, STAYS_OPEN)
    breaker = breakers.named("a")
    fail(breaker)
    becomes_state(breaker, State.OPEN)  # by itself
    assert not breakers.shared
    breakers.reset("a")
    becomes(lambda: breakers.shared)
    becomes_state(breaker, State.CLOSED)


# --- Without Redis ---------------------------------------------------------------------------------------------------


def test_without_redis_a_process_goes_by_its_own_calls(process, own_redis):
    breakers = process(own_redis.url)
    own_redis.stop()
    breaker = half_open(breakers, "a")
    assert not breakers.shared
    first, second = breaker.acquire(), breaker.acquire()
    refused(breaker)
    first.succeeded(0.1)
    second.succeeded(0.1)
    becomes_state(breaker, State.CLOSED)


def test_without_redis_operators_are_told_so(process, own_redis):
    breakers = process(own_redis.url)
    own_redis.stop()
    for attempt in (
        breakers.statuses,
        *(lambda do=do: do("a") for do in (breakers.force_open, breakers.disable, breakers.reset, breakers.forget)),
    ):
        with pytest.raises(BreakersAway) as problem:
            attempt()
        assert (problem.value.code, problem.value.retryable) == ("breaker.store_away", True)


@pytest.mark.parametrize("wipe", ["flushall", "restart"])
def test_a_wiped_redis_is_told_what_processes_know(process, own_redis, wipe):
    ours, theirs = process(own_redis.url, STAYS_OPEN), process(own_redis.url, STAYS_OPEN)
    fail(ours.named("sick"))
    theirs.named("well").acquire().succeeded(0.1)
    theirs.force_open("forbidden")
    for breakers in (ours, theirs):
        becomes_state(breakers.named("sick"), State.OPEN)
        becomes_state(breakers.named("forbidden"), State.FORCED_OPEN)
    before = {each["name"]: each for each in ours.statuses()}
    if wipe == "flushall":
        own_redis.client().flushall()
    else:
        own_redis.stop()
        becomes(lambda: not ours.shared and not theirs.shared)
        own_redis.start()
    becomes(lambda: ours.shared and theirs.shared and len(ours.statuses()) >= 2)
    after = {each["name"]: each for each in ours.statuses()}
    for name in ("sick", "forbidden"):
        for told in ("state", "version", "open_until", "failures"):
            assert after[name][told] == before[name][told]
    refused(theirs.named("sick"))
    refused(process(own_redis.url).named("forbidden"))


def test_a_redis_that_has_fallen_behind_is_told_what_processes_know(process, own_redis):
    breakers = process(own_redis.url)
    breaker = breakers.named("a")
    breaker.acquire().released()
    client = own_redis.client()
    breakers.reset("a")
    old = client.get("netra:breaker:a")
    breakers.force_open("a")
    becomes_state(breaker, State.FORCED_OPEN)
    client.set("netra:breaker:a", old)
    becomes(lambda: breakers.statuses()[0]["state"] == "forced_open")
    assert breaker.state is State.FORCED_OPEN
