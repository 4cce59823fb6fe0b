"""From text to typed calls, in SQL: how each field is read, and the reason for which a row is turned away.

The view `texts` holds the `place` of a row among all and its `line`, `is_call`, the hashes and the prompt, and each
field that the file may say as text in a column `raw_<field>`, without blanks around it and NULL where nothing is said.
Of a field that it cannot say nothing is looked at.
"""

from collections.abc import Mapping, Set
from datetime import datetime, timedelta

from apps.llm.pricing import MAX_TOKENS
from apps.optimization.duck import named, quoted

EARLIEST = "2015-01-01"  # nobody sold tokens before
MAX_WORD = 1000  # characters of a name or an id
MAX_COST = 1_000_000  # dollars for one call
WORDS = (
    "call_id",
    "trace_id",
    "model",
    "provider",
    "error",
    "finish_reason",
    "user",
    "feature",
    "session",
    "api_key",
)
TIMES = ("started_at", "ended_at", "first_token_at")
COUNTS = (
    "input_tokens",
    "cached_read_tokens",
    "cached_write_tokens",
    "cached_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)
LIMITS = ("system_tokens", "history_tokens", "retrieved_tokens", "max_output_tokens")  # unknown unless said
ANSWERS = ("batch", "interactive", "cached_answer", "stream", "tools")
NUMBERS = ("deadline_seconds", "temperature", "latency_ms")
NESTING = ("trace_id", "span_id", "parent_id")  # whose texts say which row is inside of which
TIERS = {"default": "standard", "standard_only": "standard", "on_demand": "standard"}  # other words for a tier

FAILED = (
    "failure",
    "failed",
    "fail",
    "error",
    "errored",
    "timeout",
    "timed_out",
    "cancelled",
    "canceled",
    "aborted",
    "rejected",
    "rate_limited",
)
SUCCEEDED = ("success", "succeeded", "ok", "completed", "complete", "finished", "stop", "length", "tool_calls")
OUTCOMES = dict.fromkeys(SUCCEEDED, "'succeeded'") | dict.fromkeys(FAILED, "'failed'")
YES_NO = {"false": "false", "true": "true", "f": "false", "t": "true", "no": "false", "yes": "true"}
YES_NO |= {"n": "false", "y": "true", "0": "false", "1": "true"}


def _looked_up(text: str, values: Mapping[str, str]) -> str:
    """The beginning of a CASE. Of a list of words DuckDB would make a join, through which every column goes."""
    return f"CASE {text} {' '.join(f'WHEN {quoted(word)} THEN {value}' for word, value in values.items())}"


MACROS = (
    "CREATE TEMP MACRO storable(t) AS CASE WHEN contains(t, chr(0)) THEN said(replace(t, chr(0), '')) ELSE t END",
    # Whole numbers, with thousands separators where they stand in the right places.
    r"CREATE TEMP MACRO ungrouped(t, mark) AS CASE"
    r" WHEN mark = ',' AND regexp_full_match(t, '-?\d{1,3}(,\d{3})+') THEN replace(t, ',', '')"
    r" WHEN mark = '.' AND regexp_full_match(t, '-?\d{1,3}(\.\d{3})+') THEN replace(t, '.', '') ELSE t END",
    r"CREATE TEMP MACRO whole(t) AS CASE"
    r" WHEN regexp_full_match(t, '-?\d+([.,]0+)?') THEN try_cast(regexp_extract(t, '^-?\d+') AS BIGINT) END",
    # Numbers with a decimal point, or with a decimal comma where the file uses one.
    "CREATE TEMP MACRO dotted(t, comma) AS CASE"
    " WHEN comma AND contains(t, ',') THEN replace(replace(t, '.', ''), ',', '.') ELSE t END",
    r"CREATE TEMP MACRO number(t) AS CASE WHEN regexp_full_match(t, '-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?') THEN t END",
    # Seconds, milli-, micro- or nanoseconds since 1970, told apart by their size.
    "CREATE TEMP MACRO since_1970(n) AS CASE WHEN n < 1e11 THEN make_timestamp((n * 1e6)::BIGINT)"
    " WHEN n < 1e14 THEN make_timestamp((n * 1e3)::BIGINT) WHEN n < 1e17 THEN make_timestamp(n::BIGINT)"
    " WHEN n < 1e20 THEN make_timestamp((n / 1e3)::BIGINT) END",
    # A whole date and time without an offset: with one, the seventeenth of 19 characters is no colon.
    r"CREATE TEMP MACRO is_utc(t) AS strlen(t) = 19 AND t[17] = ':' AND t[5] = '-'"
    r" OR regexp_full_match(t, '\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?')",
    # ISO 8601, or day.month.year; without an offset it is UTC.
    r"CREATE TEMP MACRO calendar(t) AS CASE"
    r" WHEN regexp_matches(t, '^\d{4}-\d') THEN try_cast(t AS TIMESTAMPTZ)::TIMESTAMP"
    r" WHEN regexp_matches(t, '^\d{1,2}\.\d')"
    " THEN try_strptime(t, ['%d.%m.%Y %H:%M:%S', '%d.%m.%Y %H:%M', '%d.%m.%Y']) END",
    r"CREATE TEMP MACRO is_number(t) AS regexp_full_match(t, '\d+(\.\d+)?([eE]\+?\d+)?')",
    f"CREATE TEMP MACRO yes_no(t) AS {_looked_up('lower(t)', YES_NO)} END",
    f"CREATE TEMP MACRO outcome(t) AS {_looked_up('t', OUTCOMES)} ELSE"
    " CASE WHEN try_cast(t AS INTEGER) >= 400 THEN 'failed'"
    " WHEN try_cast(t AS INTEGER) BETWEEN 200 AND 299 THEN 'succeeded' END END",
)


# What a field is that the file cannot say; unknown where not named here.
_UNSAID = dict.fromkeys(COUNTS, "0") | dict.fromkeys(TIMES, "NULL::TIMESTAMP") | dict.fromkeys(LIMITS, "NULL::BIGINT")
_UNSAID |= dict.fromkeys(ANSWERS, "NULL::BOOLEAN") | dict.fromkeys((*NUMBERS, "quality"), "NULL::DOUBLE")
_UNSAID |= dict.fromkeys((*WORDS, "status", "service_tier"), "NULL::VARCHAR")
_UNSAID |= {"recorded_cost": "NULL::DECIMAL(28,12)", "cache_told": "false"}


def unsaid(said: Set[str]) -> dict[str, str]:
    """The typed columns that are the same for every row of a file which says these fields, and what they are."""
    follow = {"cache_told": {"cached_read_tokens"}, "batch": {"service_tier"}, "service_tier": {"batch"}}
    return {name: sql for name, sql in _UNSAID.items() if not said & ({name} | follow.get(name, set()))}


def checked_sql(said: Set[str], *, now: datetime, decimal_comma: bool, unit: float | None, longest: int) -> str:
    """A query over `texts`: typed columns (NULL where unreadable), which counts are empty (`untold_counts`),
    `bad_column` and `reason` (NULL where fine).

    `said` are the fields with a column; `unit` is the seconds of one step of a clock that starts with the trace, None
    for calendar times; `longest` is the most characters of a prompt.
    """
    checks = [
        *_word_checks(),
        *_time_checks(now, relative=unit is not None),
        *_count_checks(said),
        *_number_checks(),
        ("prompt", f"length(prompt) > {longest}", f"The row is longer than {longest:,} characters."),
    ]
    asked = [check for check in checks if check[0] in (*said, "prompt")]
    columns = " ".join(f"WHEN {condition} THEN {quoted(column)}" for column, condition, _ in asked)
    reasons = " ".join(f"WHEN {condition} THEN {quoted(reason)}" for _, condition, reason in asked)
    nesting = [_raw(name) for name in NESTING if name in said]
    typed = _typed(said, decimal_comma, unit)
    untold = [f"{_raw(name)} IS NULL AS {column}" for name, column in untold_counts(said).items()]
    kept = ", ".join(("place", "line", "is_call", *nesting, *untold, *map(named, typed)))
    doubt = _doubt(said, now, relative=unit is not None, longest=longest)
    # Which check fails is asked only where one may.
    return f"""
        SELECT {kept}, prompt_hash, parameters_hash, answer_hash, prompt_characters, blocks, prompt,
               CASE WHEN doubtful THEN CASE {columns} END END AS bad_column,
               CASE WHEN doubtful THEN CASE {reasons} END END AS reason
        FROM (SELECT *, {doubt} AS doubtful
              FROM (SELECT *, {", ".join(f"{sql} AS {named(name)}" for name, sql in typed.items())} FROM texts))"""  # noqa: S608


def _doubt(said: Set[str], now: datetime, *, relative: bool, longest: int) -> str:
    """A condition that holds wherever a check fails, and seldom elsewhere; far quicker than all of them.

    Counts are joined bit by bit: one that is negative or too large makes the whole so, and an unreadable one NULL.
    """
    words, times, counts, limits, numbers = (
        [name for name in names if name in said] for names in (WORDS, TIMES, COUNTS, LIMITS, (*NUMBERS, "quality"))
    )
    latest = f"TIMESTAMP '{_latest(now)}'"
    tests = [f"greatest({', '.join(f'strlen({_raw(name)})' for name in words)}) > {MAX_WORD}"] if words else []
    tests += [f"{name} IS NULL AND {_raw(name)} IS NOT NULL" for name in (*times, *limits, *numbers)]
    if times and not relative:
        tests.append(f"least({', '.join(times)}) < TIMESTAMP '{EARLIEST}' OR greatest({', '.join(times)}) > {latest}")
    tests += [f"{name} < started_at" for name in times if name != "started_at"]
    if counts:
        tests.append(f"coalesce(({' | '.join(counts)}) NOT BETWEEN 0 AND {MAX_TOKENS}, true)")
    tests += [f"{name} > {MAX_TOKENS}" for name in limits]
    tests += ["reasoning_tokens > output_tokens", "cached_write_1h_tokens > cached_write_tokens", _without_tokens(said)]
    tests += [condition for name, condition, _ in _number_checks() if name in said]
    tests.append(f"strlen(prompt) > {longest}")
    return " OR ".join(f"coalesce({test}, false)" for test in tests)


def _typed(said: Set[str], decimal_comma: bool, unit: float | None) -> dict[str, str]:
    """Field -> expression for its value."""
    comma, mark = str(decimal_comma).lower(), quoted("." if decimal_comma else ",")
    values = {name: f"storable({_raw(name)})" for name in WORDS}
    values |= {name: _time(name, unit) for name in TIMES}
    values |= {name: f"CASE WHEN {_raw(name)} IS NULL THEN 0 ELSE {_count(name, mark)} END" for name in COUNTS}
    values |= {name: _count(name, mark) for name in LIMITS}
    values |= {name: f"yes_no({_raw(name)})" for name in ANSWERS}
    values |= {name: f"try_cast(number(dotted({_raw(name)}, {comma})) AS DOUBLE)" for name in NUMBERS}
    values |= {
        "recorded_cost": f"try_cast(number(dotted({_AMOUNT}, {comma})) AS DECIMAL(28,12))",
        "status": "outcome(lower(raw_status))",
        # A verdict is worth 1 or 0; everything else is a score of its own scale.
        "quality": "coalesce(yes_no(raw_quality)::DOUBLE, try_cast(number(raw_quality) AS DOUBLE))",
        "service_tier": _TIER,
    }
    known = _UNSAID | {name: sql for name, sql in values.items() if name in said}
    tier, batch = known["service_tier"], known["batch"]
    values |= {
        "cache_told": f"{_raw('cached_read_tokens')} IS NOT NULL",
        "batch": f"coalesce({batch}, {tier} = 'batch')",
        "service_tier": f"coalesce({tier}, CASE WHEN {batch} THEN 'batch' END)",
    }
    return values | unsaid(said)


def _count(field: str, mark: str) -> str:
    """Tokens; plain digits, which nearly all are, are read without a second look."""
    text = _raw(field)
    plain = f"try_cast({text} AS BIGINT)"
    return f"CASE WHEN {plain}::VARCHAR = {text} THEN {plain} ELSE whole(ungrouped({text}, {mark})) END"


_AMOUNT = "CASE WHEN raw_recorded_cost < ':' AND raw_recorded_cost >= '-' THEN raw_recorded_cost"
_AMOUNT += " ELSE ltrim(raw_recorded_cost, '$€ ') END"
# "auto" is what was asked for; which tier answered, it does not say.
_TIER = f"""CASE lower(raw_service_tier) WHEN 'auto' THEN NULL {
    " ".join(f"WHEN {quoted(word)} THEN {quoted(tier)}" for word, tier in TIERS.items())
} ELSE lower(raw_service_tier) END"""


def _raw(field: str) -> str:
    return named(f"raw_{field}")


def _time(field: str, unit: float | None) -> str:
    """A moment; a date with a time in UTC, as most logs have it, is read without a second look."""
    text = _raw(field)
    number = f"try_cast({text} AS DOUBLE)"
    epoch = f"since_1970({number})" if unit is None else f"make_timestamp(({number} * {unit} * 1e6)::BIGINT)"
    plain = f"CASE WHEN is_utc({text}) THEN try_cast({text} AS TIMESTAMP) END"
    return f"coalesce({plain}, CASE WHEN is_number({text}) THEN {epoch} ELSE calendar({text}) END)"


def _latest(now: datetime) -> str:
    return (now + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")


Check = tuple[str, str, str]  # field, SQL condition of what is wrong, sentence


def _word_checks() -> list[Check]:
    long = f"It is longer than {MAX_WORD:,} characters."
    return [(name, f"length({_raw(name)}) > {MAX_WORD}", long) for name in WORDS]


def _time_checks(now: datetime, *, relative: bool) -> list[Check]:
    unreadable = "The time cannot be read; ISO 8601 (2026-01-31T12:00:00Z) and Unix times work."
    checks = [(name, f"{_raw(name)} IS NOT NULL AND {name} IS NULL", unreadable) for name in TIMES]
    if not relative:
        checks += [(name, f"{name} < TIMESTAMP '{EARLIEST}'", "The time lies before 2015.") for name in TIMES]
        checks += [(name, f"{name} > TIMESTAMP '{_latest(now)}'", "The time lies in the future.") for name in TIMES]
    return [
        *checks,
        ("ended_at", "ended_at < started_at", "The call ends before it starts."),
        ("first_token_at", "first_token_at < started_at", "The first token comes before the call starts."),
    ]


def _count_checks(said: Set[str]) -> list[Check]:
    large = f"More than {MAX_TOKENS:,} tokens cannot be one call; sums of calls cannot be priced."
    return [
        *((name, f"{name} IS NULL", _NOT_WHOLE) for name in COUNTS),
        *((name, f"{name} < 0", "The number of tokens is negative.") for name in COUNTS),
        *((name, f"{name} > {MAX_TOKENS}", large) for name in (*COUNTS, *LIMITS)),
        *((name, f"{_raw(name)} IS NOT NULL AND {name} IS NULL", _NOT_WHOLE) for name in LIMITS),
        (
            "reasoning_tokens",
            "reasoning_tokens > output_tokens",
            "More tokens of reasoning than of output; output counts reasoning.",
        ),
        (
            "cached_write_1h_tokens",
            "cached_write_1h_tokens > cached_write_tokens",
            "More tokens are written for an hour than are written at all.",
        ),
        (_counted(said)[0], _without_tokens(said), "The row has no token counts."),
    ]


def untold_counts(said: Set[str]) -> dict[str, str]:
    """Count -> column of `checked_sql` with whether a row leaves it empty, where one may while the other is there."""
    counted = _counted(said)
    return {name: f"{name}_untold" for name in counted} if len(counted) > 1 else {}


def _without_tokens(said: Set[str]) -> str:
    return " AND ".join(f"{_raw(name)} IS NULL" for name in _counted(said))


def _counted(said: Set[str]) -> list[str]:
    """Which of the two counts that make a call the file may say."""
    return [name for name in ("input_tokens", "output_tokens") if name in said]


def _number_checks() -> list[Check]:
    cost = f"raw_recorded_cost IS NOT NULL AND coalesce(recorded_cost NOT BETWEEN 0 AND {MAX_COST}, true)"
    score = "raw_quality IS NOT NULL AND coalesce(quality NOT BETWEEN 0 AND 1, true)"
    return [
        ("quality", score, "A score of quality lies between 0 and 1, or is true or false."),
        ("recorded_cost", cost, "The cost is not an amount of dollars between 0 and a million."),
        *((name, f"{_raw(name)} IS NOT NULL AND {_not_sane(name)}", _NOT_A_NUMBER) for name in NUMBERS),
    ]


_NOT_WHOLE = "It is not a whole number of tokens."
_NOT_A_NUMBER = "It is not a number from 0 up."


def _not_sane(field: str) -> str:
    return f"coalesce(NOT isfinite({field}) OR {field} NOT BETWEEN 0 AND 1e9, true)"
