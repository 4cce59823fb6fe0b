"""From text to typed calls, in SQL: how each field is read, and the reason for which a row is turned away.

The view `staged` holds the `number` of a row and its `line`, `is_call`, the hashes and the prompt, and each field that
the file may say as text in a column `raw_<field>`. Of a field that it cannot say nothing is looked at.
"""

from collections.abc import Collection
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
RAW = (*WORDS, *TIMES, *COUNTS, *LIMITS, *ANSWERS, *NUMBERS, "recorded_cost", "status", "quality", "service_tier")
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

MACROS = (
    "CREATE TEMP MACRO said(t) AS nullif(trim(t), '')",
    # Whole numbers, with thousands separators where they stand in the right places; a missing count is 0.
    r"CREATE TEMP MACRO ungrouped(t, mark) AS CASE"
    r" WHEN mark = ',' AND regexp_full_match(t, '-?\d{1,3}(,\d{3})+') THEN replace(t, ',', '')"
    r" WHEN mark = '.' AND regexp_full_match(t, '-?\d{1,3}(\.\d{3})+') THEN replace(t, '.', '') ELSE t END",
    r"CREATE TEMP MACRO whole(t) AS CASE WHEN t IS NULL THEN 0"
    r" WHEN regexp_full_match(t, '-?\d+([.,]0+)?') THEN try_cast(regexp_extract(t, '^-?\d+') AS BIGINT) END",
    # Numbers with a decimal point, or with a decimal comma where the file uses one.
    "CREATE TEMP MACRO dotted(t, comma) AS CASE"
    " WHEN comma AND contains(t, ',') THEN replace(replace(t, '.', ''), ',', '.') ELSE t END",
    r"CREATE TEMP MACRO number(t) AS CASE WHEN regexp_full_match(t, '-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?') THEN t END",
    # Seconds, milli-, micro- or nanoseconds since 1970, told apart by their size.
    "CREATE TEMP MACRO since_1970(n) AS CASE WHEN n < 1e11 THEN make_timestamp((n * 1e6)::BIGINT)"
    " WHEN n < 1e14 THEN make_timestamp((n * 1e3)::BIGINT) WHEN n < 1e17 THEN make_timestamp(n::BIGINT)"
    " WHEN n < 1e20 THEN make_timestamp((n / 1e3)::BIGINT) END",
    # ISO 8601, or day.month.year; without an offset it is UTC.
    r"CREATE TEMP MACRO calendar(t) AS CASE"
    r" WHEN regexp_matches(t, '^\d{4}-\d') THEN try_cast(t AS TIMESTAMPTZ)::TIMESTAMP"
    r" WHEN regexp_matches(t, '^\d{1,2}\.\d')"
    " THEN try_strptime(t, ['%d.%m.%Y %H:%M:%S', '%d.%m.%Y %H:%M', '%d.%m.%Y']) END",
    r"CREATE TEMP MACRO is_number(t) AS regexp_full_match(t, '\d+(\.\d+)?([eE]\+?\d+)?')",
    "CREATE TEMP MACRO yes_no(t) AS CASE WHEN list_contains(['true', 't', 'yes', 'y', '1'], lower(t)) THEN true"
    " WHEN list_contains(['false', 'f', 'no', 'n', '0'], lower(t)) THEN false END",
    f"CREATE TEMP MACRO outcome(t) AS CASE WHEN list_contains({list(FAILED)}, t) OR try_cast(t AS INTEGER) >= 400"
    f" THEN 'failed' WHEN list_contains({list(SUCCEEDED)}, t) OR try_cast(t AS INTEGER) BETWEEN 200 AND 299"
    " THEN 'succeeded' END",
)


_OTHERS = ("recorded_cost", "status", "quality", "service_tier")
# What a field is that the file cannot say; unknown where not named here.
_UNSAID = dict.fromkeys(COUNTS, "0") | dict.fromkeys(TIMES, "NULL::TIMESTAMP") | dict.fromkeys(LIMITS, "NULL::BIGINT")
_UNSAID |= dict.fromkeys(ANSWERS, "NULL::BOOLEAN") | dict.fromkeys((*NUMBERS, "quality"), "NULL::DOUBLE")
_UNSAID |= {"recorded_cost": "NULL::DECIMAL(28,12)"}


def checked_sql(said: Collection[str], *, now: datetime, decimal_comma: bool, unit: float | None, longest: int) -> str:
    """A query over `staged`: typed columns (NULL where unreadable), `bad_column` and `reason` (NULL where fine).

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
    kept = ", ".join(("line", "number", *map(named, (*WORDS, *TIMES, *COUNTS, *LIMITS, *ANSWERS, *NUMBERS)), *_OTHERS))
    typed = ", ".join(f"{sql} AS {named(name)}" for name, sql in _typed(said, decimal_comma, unit).items())
    # A row is fine if no check fails; which one did is asked only then.
    fine = " OR ".join(f"coalesce({condition}, false)" for _, condition, _ in asked)
    return f"""
        SELECT {kept}, prompt_hash, parameters_hash, answer_hash, prompt_characters, blocks, prompt,
               CASE WHEN {fine} THEN CASE {columns} END END AS bad_column,
               CASE WHEN {fine} THEN CASE {reasons} END END AS reason
        FROM (SELECT *, {typed} FROM staged WHERE is_call)"""  # noqa: S608


def _typed(said: Collection[str], decimal_comma: bool, unit: float | None) -> dict[str, str]:
    """Field -> expression for its value."""
    comma, mark = str(decimal_comma).lower(), quoted("." if decimal_comma else ",")
    values = {name: f"nullif(trim(replace({_raw(name)}, chr(0), '')), '')" for name in WORDS}
    values |= {name: _time(name, unit) for name in TIMES}
    values |= {name: _count(f"said({_raw(name)})", mark) for name in COUNTS}
    values |= {
        name: f"CASE WHEN said({_raw(name)}) IS NOT NULL THEN {_count(f'said({_raw(name)})', mark)} END"
        for name in LIMITS
    }
    values |= {name: f"yes_no(trim({_raw(name)}))" for name in ANSWERS}
    values |= {name: f"try_cast(number(dotted(said({_raw(name)}), {comma})) AS DOUBLE)" for name in NUMBERS}
    values |= {
        "recorded_cost": f"try_cast(number(dotted(ltrim(trim(raw_recorded_cost), '$€ '), {comma})) AS DECIMAL(28,12))",
        "status": "outcome(lower(trim(raw_status)))",
        # A verdict is worth 1 or 0; everything else is a score of its own scale.
        "quality": "coalesce(yes_no(trim(raw_quality))::DOUBLE, try_cast(number(said(raw_quality)) AS DOUBLE))",
        "service_tier": _TIER,
    }
    known = {name: sql if name in said else _UNSAID.get(name, "NULL::VARCHAR") for name, sql in values.items()}
    tier, batch = known["service_tier"], known["batch"]
    return known | {
        "batch": f"coalesce({batch}, {tier} = 'batch')",
        "service_tier": f"coalesce({tier}, CASE WHEN {batch} THEN 'batch' END)",
    }


def _count(text: str, mark: str) -> str:
    """Tokens; plain digits, which nearly all are, are read without a second look."""
    plain = f"try_cast(CASE WHEN length({text}) < 16 AND ltrim({text}, '0123456789') = '' THEN {text} END AS BIGINT)"
    return f"coalesce({plain}, whole(ungrouped({text}, {mark})))"


_TIER = f"""CASE lower(trim(raw_service_tier)) WHEN '' THEN NULL {
    " ".join(f"WHEN {quoted(word)} THEN {quoted(tier)}" for word, tier in TIERS.items())
} ELSE lower(trim(raw_service_tier)) END"""


def _raw(field: str) -> str:
    return named(f"raw_{field}")


def _time(field: str, unit: float | None) -> str:
    """A moment; a date with a time and no offset, as most logs have it, is read without a second look."""
    text = f"said({_raw(field)})"
    number = f"try_cast({text} AS DOUBLE)"
    epoch = f"since_1970({number})" if unit is None else f"make_timestamp(({number} * {unit} * 1e6)::BIGINT)"
    plain = f"CASE WHEN length({text}) = 19 AND {text}[5] = '-' THEN try_cast({text} AS TIMESTAMP) END"
    return f"coalesce({plain}, CASE WHEN is_number({text}) THEN {epoch} ELSE calendar({text}) END)"


Check = tuple[str, str, str]  # field, SQL condition of what is wrong, sentence


def _word_checks() -> list[Check]:
    long = f"It is longer than {MAX_WORD:,} characters."
    return [(name, f"length({_raw(name)}) > {MAX_WORD}", long) for name in WORDS]


def _time_checks(now: datetime, *, relative: bool) -> list[Check]:
    latest = (now + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")
    unreadable = "The time cannot be read; ISO 8601 (2026-01-31T12:00:00Z) and Unix times work."
    checks = [(name, f"said({_raw(name)}) IS NOT NULL AND {name} IS NULL", unreadable) for name in TIMES]
    if not relative:
        checks += [(name, f"{name} < TIMESTAMP '{EARLIEST}'", "The time lies before 2015.") for name in TIMES]
        checks += [(name, f"{name} > TIMESTAMP '{latest}'", "The time lies in the future.") for name in TIMES]
    return [
        *checks,
        ("ended_at", "ended_at < started_at", "The call ends before it starts."),
        ("first_token_at", "first_token_at < started_at", "The first token comes before the call starts."),
    ]


def _count_checks(said: Collection[str]) -> list[Check]:
    large = f"More than {MAX_TOKENS:,} tokens cannot be one call; sums of calls cannot be priced."
    return [
        *((name, f"{name} IS NULL", _NOT_WHOLE) for name in COUNTS),
        *((name, f"{name} < 0", "The number of tokens is negative.") for name in COUNTS),
        *((name, f"{name} > {MAX_TOKENS}", large) for name in (*COUNTS, *LIMITS)),
        *((name, f"said({_raw(name)}) IS NOT NULL AND {name} IS NULL", _NOT_WHOLE) for name in LIMITS),
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


def _without_tokens(said: Collection[str]) -> str:
    return " AND ".join(f"said({_raw(name)}) IS NULL" for name in _counted(said))


def _counted(said: Collection[str]) -> list[str]:
    """Which of the two counts that make a call the file may say."""
    return [name for name in ("input_tokens", "output_tokens") if name in said]


def _number_checks() -> list[Check]:
    cost = f"said(raw_recorded_cost) IS NOT NULL AND coalesce(recorded_cost NOT BETWEEN 0 AND {MAX_COST}, true)"
    score = "said(raw_quality) IS NOT NULL AND coalesce(quality NOT BETWEEN 0 AND 1, true)"
    return [
        ("quality", score, "A score of quality lies between 0 and 1, or is true or false."),
        ("recorded_cost", cost, "The cost is not an amount of dollars between 0 and a million."),
        *((name, f"said({_raw(name)}) IS NOT NULL AND {_not_sane(name)}", _NOT_A_NUMBER) for name in NUMBERS),
    ]


_NOT_WHOLE = "It is not a whole number of tokens."
_NOT_A_NUMBER = "It is not a number from 0 up."


def _not_sane(field: str) -> str:
    return f"coalesce(NOT isfinite({field}) OR {field} NOT BETWEEN 0 AND 1e9, true)"
