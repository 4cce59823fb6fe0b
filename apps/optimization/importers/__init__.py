"""What rows mean: one source of calls per file here, told by its columns.

An importer says where the fields of a call stand, as SQL for text; checking, converting and pricing come after, in one
place for all sources. A new source is a file here with a function that `@importer` registers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from apps.errors import Invalid
from apps.optimization.readers import UnusableFile
from apps.optimization.texts import NOTHING, Texts

Convention = Literal["inclusive", "exclusive"]

# What an importer may fill, as text. Times, numbers and words are understood later.
FIELDS = (
    "call_id",
    "trace_id",
    "span_id",
    "parent_id",
    "started_at",
    "ended_at",
    "latency_ms",
    "first_token_at",
    "model",
    "provider",
    "input_tokens",
    "cached_read_tokens",
    "cached_write_tokens",
    "cached_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "system_tokens",
    "history_tokens",
    "retrieved_tokens",
    "max_output_tokens",
    "recorded_cost",
    "status",
    "error",
    "finish_reason",
    "user",
    "feature",
    "session",
    "api_key",
    "service_tier",
    "batch",
    "interactive",
    "deadline_seconds",
    "temperature",
    "stream",
    "tools",
    "quality",
    "parameters",
    "prompt",
    "answer",
    "blocks",
    "cached_answer",
)
# What of the body of a request decides the answer, besides the model and the messages.
DECIDES = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "seed",
    "stop",
    "stop_sequences",
    "tools",
    "functions",
    "tool_choice",
    "response_format",
    "reasoning_effort",
    "thinking",
)
HASHED = ("prompt", "parameters", "answer")  # of which it counts whether they are the same, to the last blank


class NoUsableColumns(UnusableFile):
    """No column says how many tokens a call took."""

    code = "file.no_usable_columns"


class WrongMapping(Invalid):
    """The mapping names a field or a column that does not exist."""

    code = "mapping.invalid"
    status = 422


@dataclass(frozen=True, kw_only=True)
class Importer:
    """One source of calls, as it reads one file."""

    kind: str
    documented: Convention | None  # whether its input counts cached tokens, where its makers say so
    columns: Mapping[str, str]  # field -> where it is read from, for people
    sql: Mapping[str, str]  # field -> expression for its text; a field without one is never said
    is_call: str = "true"  # the condition under which a row is a call
    notes: tuple[str, ...] = ()  # what it assumes, in sentences


Maker = Callable[[Texts], Importer | None]
_makers: list[tuple[int, Maker]] = []


def importer(*, order: int) -> Callable[[Maker], Maker]:
    """Register a maker of importers, which answers None for files it does not know; lower orders are asked first."""

    def register(maker: Maker) -> Maker:
        _makers.append((order, maker))
        return maker

    return register


def importer_for(texts: Texts, mapping: Mapping[str, str | None]) -> Importer:
    """The importer for a file. A `mapping` (field -> column, None for "no column") overrules single fields of it.

    Raises:
        NoUsableColumns, WrongMapping: see there.
    """
    from apps.optimization.importers.generic import generic  # needs this module

    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    _check_mapping(texts.columns, mapping)
    source = _source(texts)
    found = generic(texts, mapping) if source is None else _overruled(texts, source, mapping)
    if not {"input_tokens", "output_tokens"} & found.sql.keys():
        raise NoUsableColumns(
            f"No column holds token counts. Columns found: {_listed(texts.columns)}. Say which do, for example "
            "input_tokens=prompt_len: under “Column names, where unusual” of the Data page, after --map in the "
            "terminal, or as `mapping` over REST."
        )
    return found


def _source(texts: Texts) -> Importer | None:
    """What the first maker that knows the file makes of it; None for a table of somebody's own."""
    for _, maker in sorted(_makers, key=lambda entry: entry[0]):
        texts.forget()
        if (found := maker(texts)) is not None:
            return found
    texts.forget()
    return None


def _overruled(texts: Texts, source: Importer, mapping: Mapping[str, str | None]) -> Importer:
    """`source` with single fields read from other columns, or from none; all its other rules stay."""
    own = {field: column for field, column in mapping.items() if column is not None}
    _, sql = fields_at(texts, {field: (column,) for field, column in own.items()})
    return replace(
        source,
        # What its makers say of their count of input holds for no other.
        documented=None if "input_tokens" in mapping else source.documented,
        columns={field: column for field, column in source.columns.items() if field not in mapping} | own,
        sql={field: text for field, text in source.sql.items() if field not in mapping} | sql,
    )


def mapping_of(pairs: Iterable[str]) -> dict[str, str | None]:
    """The mapping that a person writes as `field=column`; `field=` says that no column is to be used.

    Raises:
        WrongMapping: one is not of that form, or its field is none of a call.

    >>> mapping_of(["input_tokens=prompt_len", "user="])
    {'input_tokens': 'prompt_len', 'user': None}
    """
    mapping: dict[str, str | None] = {}
    for pair in pairs:
        field, sign, column = (part.strip() for part in pair.partition("="))
        if not sign:
            raise WrongMapping(f"{pair!r} names no column. Write field=column, for example input_tokens=prompt_len.")
        check_fields([field])
        mapping[field] = column or None
    return mapping


def check_fields(fields: Iterable[str]) -> None:
    """Raises WrongMapping for a field that calls do not have."""
    for field in fields:
        if field not in FIELDS:
            raise WrongMapping(f"A call has no field {field!r}; it has {', '.join(FIELDS)}.")


def _check_mapping(columns: tuple[str, ...], mapping: Mapping[str, str | None]) -> None:
    check_fields(mapping)
    for field, column in mapping.items():
        if column is not None and column not in columns:
            raise WrongMapping(f"The file has no column {column!r} for {field!r}. Columns found: {_listed(columns)}.")


def _listed(columns: tuple[str, ...]) -> str:
    shown = ", ".join(repr(name[:60]) for name in columns[:20]) or "none"
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown


def fields_at(
    texts: Texts, places: Mapping[str, tuple[str, ...]], *, system: tuple[str, ...] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """(columns, sql) of the fields that a file has at one of their `places`, the first that says something first.

    What stands at one of the places `system` is said to the model before the messages, and begins the prompt.
    """
    found = {field: [name for name in names if texts.at(name) != NOTHING] for field, names in places.items()}
    columns = {field: ", ".join(name.replace("/", ".") for name in names) for field, names in found.items() if names}
    first = {field: texts.first_untouched if field in HASHED else texts.first for field in found}
    sql = {field: first[field](*names) for field, names in found.items() if names}
    told = [name for name in system if texts.at(name) != NOTHING]
    if told and (messages := sql.get("prompt")):
        columns["prompt"] = ", ".join([*(name.replace("/", ".") for name in told), columns["prompt"]])
        sql["prompt"] = f"""CASE WHEN {messages} IS NOT NULL
            THEN concat_ws(chr(10), {texts.first_untouched(*told)}, {messages}) END"""
    return columns, sql


def decided_by(texts: Texts, body: str, *more: str) -> str:
    """`parameters`: what of the body of a request that stands at `body`, and of `more` places, decides the answer."""
    return together(texts.at(place) for place in (*(f"{body}/{name}" for name in DECIDES), *more))


def offered(texts: Texts, *tools: str, body: str | None = None) -> str:
    """`tools`: whether a call offers some. It offers none where they would stand in a `body` that is said."""
    none = f"WHEN {texts.at(body)} IS NOT NULL THEN 'false'" if body else ""
    return f"CASE WHEN {texts.first(*tools)} IS NOT NULL THEN 'true' {none} END"


def together(texts: Iterable[str]) -> str:
    """One text of several, told apart from all others; NULL where none says anything."""
    listed = [f"({text})::VARCHAR" for text in texts]
    return f"CASE WHEN coalesce({', '.join(listed)}) IS NOT NULL THEN to_json([{', '.join(listed)}])::VARCHAR END"
