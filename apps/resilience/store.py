"""The circuits in Redis: one key each, changed by one Lua call under the clock of Redis, and told of by pub/sub."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from apps.resilience.circuit import BUCKETS, BreakerSettings, Circuit, Request, milliseconds

PATIENCE = 0.5  # seconds that an exchange waits for Redis
PREFIX = "netra:breaker:"
CHANNEL = "netra:breakers"
_chance = random.Random()  # noqa: S311  # of our own: the program's sequence stays as its seed says

# The twin of `circuit.decide`: change both, or neither.
DECIDE = (
    f"local BUCKETS = {BUCKETS}"
    + """
local function size(map)
  local count = 0
  for _ in pairs(map) do count = count + 1 end
  return count
end

local function move(c, state, openings, open_until)
  c.state, c.version, c.openings, c.open_until = state, c.version + 1, openings, open_until
  c.successes, c.trials, c.tried_at = 0, {}, 0
  if state ~= 'open' then c.buckets = {} end
end

local function open(c, s, openings, now, chance)
  local full = math.min(s.longest_open, s.open * 2 ^ math.min(openings - 1, 30))
  move(c, 'open', openings, now + math.floor(math.max(s.open, full / 2 + chance * (full / 2))))
end

local function after_time(c, s, now, chance)
  if c.window ~= s.window then c.window, c.buckets = s.window, {} end
  if c.state == 'open' and now >= c.open_until then
    move(c, 'half_open', c.openings, 0)
  elseif c.state == 'half_open' then
    for token, lost_at in pairs(c.trials) do
      if lost_at <= now then c.trials[token] = nil end
    end
    if c.tried_at > 0 and now >= c.tried_at + s.half_open then open(c, s, c.openings, now, chance) end
  end
end

local function count(c, s, counts, now, chance)
  local current = math.floor(now * BUCKETS / c.window)
  local total = {0, 0, 0}
  local bucket = c.buckets[tostring(current)] or {0, 0, 0}
  c.buckets[tostring(current)] = bucket
  for i = 1, 3 do bucket[i] = bucket[i] + counts[i] end
  for number, ended in pairs(c.buckets) do
    if tonumber(number) <= current - BUCKETS or tonumber(number) > current then
      c.buckets[number] = nil
    else
      for i = 1, 3 do total[i] = total[i] + ended[i] end
    end
  end
  local calls, failures, slow = unpack(total)
  local failing = failures >= s.minimum_failures and failures / calls >= s.failure_rate
  if calls >= s.minimum_calls and (failing or slow / calls >= s.slow_rate) then open(c, s, 1, now, chance) end
end

local function settle(c, s, token, outcome, now, chance)
  if not c.trials[token] then return end
  c.trials[token] = nil
  if outcome == 'failed' then
    open(c, s, c.openings + 1, now, chance)
  elseif outcome == 'succeeded' then
    c.successes = c.successes + 1
    if c.successes >= s.trial_calls then move(c, 'closed', 0, 0) end
  end
end

local function decide(c, ask, now, chance)
  local s, granted = ask.settings, false
  after_time(c, s, now, chance)
  if ask.counts and c.state == 'closed' and c.version == ask.version then count(c, s, ask.counts, now, chance) end
  for token, outcome in pairs(ask.settled or {}) do settle(c, s, token, outcome, now, chance) end
  if ask.take and c.state == 'half_open' and size(c.trials) + c.successes < s.trial_calls then
    c.trials[ask.take] = now + s.trial
    if c.tried_at == 0 then c.tried_at = now end
    granted = true
  end
  if ask.move then move(c, ask.move, 0, 0) end
  return granted
end
"""
)

# A circuit that Redis has lost, or holds in an older version than the process has seen there (it was wiped, or a
# replica took over), is replaced by what the process knows. What an operator said is kept, the rest for a day.
_EXCHANGE = (
    DECIDE
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {now}
for i, key in ipairs(KEYS) do
  local ask = cjson.decode(ARGV[i])
  local stored = redis.call('GET', key)
  local c = stored and cjson.decode(stored)
  local version = c and c.version or 0
  if not c or version < ask.seen then c = ask.known end
  local granted = decide(c, ask, now, ask.chance)
  local text = cjson.encode(c)
  if c.version ~= version or ask.counts or ask.settled or ask.take or ask.move then
    if c.state == 'forced_open' or c.state == 'disabled' then
      redis.call('SET', key, text)
    else
      redis.call('SET', key, text, 'PX', 86400000)
    end
  end
  if c.version ~= version then redis.call('PUBLISH', '%s', key) end
  answers[i + 1] = {text, granted and 1 or 0}
end
return answers
""".replace("%s", CHANNEL)
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to the circuit `name`; `known` replaces it if Redis has lost version `seen`."""

    name: str
    request: Request
    settings: BreakerSettings
    known: Circuit
    seen: int

    def to_json(self) -> str:
        chance = _chance.random()
        memory = {"known": vars(self.known), "seen": self.seen}
        return json.dumps({**arguments(self.request, self.settings), **memory, "chance": chance})


def arguments(request: Request, settings: BreakerSettings) -> dict[str, Any]:
    """Request and settings as the Lua function takes them: durations in milliseconds, nothing that is empty."""
    given = {name: value for name, value in vars(request).items() if value}
    rules = {
        "window": milliseconds(settings.window_seconds),
        "open": milliseconds(settings.open_seconds),
        "longest_open": milliseconds(settings.longest_open_seconds),
        "trial": milliseconds(settings.trial_seconds),
        "half_open": milliseconds(settings.half_open_seconds),
        "minimum_calls": settings.minimum_calls,
        "minimum_failures": settings.minimum_failures,
        "failure_rate": settings.failure_rate,
        "slow_rate": settings.slow_rate,
        "trial_calls": settings.trial_calls,
    }
    return {"version": request.version, **given, "settings": rules}


class Store:
    """A process's way to Redis. Everything here raises `redis.RedisError` when Redis is away."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]

    def exchange(self, asked: Sequence[Asked]) -> tuple[int, list[tuple[Circuit, bool]]]:
        """The time in Redis, and for each request its circuit and whether its trial call may begin. One round trip.

        A request whose answer got lost may have been heard; it is not repeated.
        """
        now, *answers = cast(
            list[Any],
            self._exchange(keys=[PREFIX + each.name for each in asked], args=[each.to_json() for each in asked]),
        )
        return now, [(_circuit(text), bool(granted)) for text, granted in answers]

    def changes(self, *, within: float) -> set[str]:
        """Names of the circuits that have changed their state; waits up to `within` seconds for the first."""
        if not self._pubsub.subscribed:
            self._pubsub.subscribe(CHANNEL)
        names = set()
        message = self._pubsub.get_message(timeout=within)
        while message is not None:
            names.add(str(message["data"]).removeprefix(PREFIX))
            message = self._pubsub.get_message(timeout=0)
        return names

    def read_all(self) -> tuple[int, dict[str, Circuit]]:
        """The time in Redis, and every circuit that it holds."""
        keys = sorted(self._redis.scan_iter(match=PREFIX + "*", count=1000))
        seconds, microseconds = self._redis.time()
        texts = cast(list[str | None], self._redis.mget(keys)) if keys else []
        circuits = {key.removeprefix(PREFIX): _circuit(text) for key, text in zip(keys, texts, strict=True) if text}
        return seconds * 1000 + microseconds // 1000, circuits

    def remove(self, name: str) -> None:
        """Forget the circuit `name`."""
        self._redis.delete(PREFIX + name)

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()


def _circuit(text: str) -> Circuit:
    try:
        return Circuit.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise redis.InvalidResponse(f"Redis holds a circuit that makes no sense: {text}") from error
