"""Breakers that real processes share: killed, forked, and with their Redis frozen under them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from tests.houses import ROOT, becomes

pytestmark = pytest.mark.processes


class Caller:
    """A process that runs `caller.py`."""

    def __init__(self, url: str, settings: dict) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.resilience.caller", url, json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tell(self, *words: object) -> None:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def answer(self) -> object:
        return json.loads(self.process.stdout.readline())

    def __call__(self, *words: object) -> object:
        self.tell(*words)
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def caller() -> Iterator[Callable[..., Caller]]:
    with ExitStack() as opened:

        def start(url: str = "", **settings: float) -> Caller:
            process = Caller(url or os.environ["REDIS_URL"], settings)
            opened.callback(process.close)
            return process

        yield start


def test_a_breaker_that_one_process_opens_is_open_in_the_other(caller, name):
    ours, theirs = caller(), caller()
    assert theirs("state", name) == "closed"
    assert ours("fail", name, 5) == 5
    becomes(lambda: theirs("state", name) == "open")
    assert theirs("take", name) is False
    assert ours("take", name) is False


def test_a_forked_child_starts_afresh_and_its_parent_goes_on(caller, name):
    parent = caller()
    parent("take", name)
    assert parent("fork", name) == 7
    becomes(lambda: parent("state", name) == "open")


def test_what_ended_before_a_fork_is_told_once(caller, process, name):
    assert caller()("fork_with_news", name, 3) == 7
    assert [each["failures"] for each in process().statuses() if each["name"] == name] == [3]


def test_never_more_trials_than_allowed_in_the_whole_cluster(caller, name):
    quick = {"open_seconds": 0.1, "trial_calls": 3}
    callers = [caller(**quick) for _ in range(3)]
    callers[0]("fail", name, 5)
    becomes(lambda: {each("state", name) for each in callers} == {"half_open"})

    def taken() -> int:
        """How many trials all three get at once, asking as quickly as they can."""
        for each in callers:
            for _ in range(5):
                each.tell("take", name)
        return sum(each.answer() for each in callers for _ in range(5))

    for outcome in ("released", "released", "released", "succeeded"):
        trials = becomes(taken)
        while trials < 3:
            trials += becomes(taken)
        assert trials == 3
        assert taken() == 0
        assert sum(each("end", outcome) for each in callers) == 3
    becomes(lambda: {each("state", name) for each in callers} == {"closed"})


def test_the_trial_of_a_killed_process_is_given_to_another_in_time(caller, name):
    settings = {"open_seconds": 0.1, "trial_calls": 1, "trial_seconds": 5}
    killed, heir = caller(**settings), caller(**settings)
    killed("fail", name, 5)
    becomes(lambda: killed("state", name) == heir("state", name) == "half_open")
    assert killed("take", name) is True
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    assert heir("take", name) is False
    becomes(lambda: heir("take", name))
    heir("end", "succeeded")
    becomes(lambda: heir("state", name) == "closed")


def test_while_redis_is_frozen_each_process_goes_on_with_what_it_knows(caller, own_redis):
    ours, theirs = caller(own_redis.url), caller(own_redis.url)
    ours("fail", "sick", 5)
    becomes(lambda: ours("state", "sick") == theirs("state", "sick") == "open")
    for each in (ours, theirs):
        assert each("take", "well") is True
        each("end", "released")
    pid = own_redis.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert theirs("fail", "well", 4) == 4
        becomes(lambda: not ours("shared") and not theirs("shared"))
        assert [each("state", "sick") for each in (ours, theirs)] == ["open", "open"]
        assert [each("state", "well") for each in (ours, theirs)] == ["closed", "closed"]
        assert ours("fail", "sick", 20_000) == 0
        theirs("fail", "well", 1)
        becomes(lambda: theirs("state", "well") == "open")
        assert ours("state", "well") == "closed"
    finally:
        os.kill(pid, signal.SIGCONT)
    becomes(lambda: ours("shared") and theirs("shared"))
    with redis.Redis.from_url(own_redis.url) as client:
        assert json.loads(client.get("netra:breaker:sick"))["state"] == "open"
    becomes(lambda: ours("state", "well") == theirs("state", "well"))
    ours("fail", "well", 5)
    becomes(lambda: theirs("state", "well") == "open")
