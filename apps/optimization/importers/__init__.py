"""What rows mean: one source of calls per file here, told by its columns.

An importer turns a row into the fields of a call, still as text; checking, converting and pricing come after, in one
place for all sources. A new source is a file here with a class that `@importer` registers.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, Protocol

from apps.errors import Invalid
from apps.optimization.readers import Row, UnusableFile

Convention = Literal["inclusive", "exclusive"]

# What an importer may fill, as text. Times, numbers and words are understood later.
FIELDS = (
    "call_id",
    "trace_id",
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
    "cached_answer",
)


class NoUsableColumns(UnusableFile):
    """No column says how many tokens a call took."""

    code = "file.no_usable_columns"


class WrongMapping(Invalid):
    """The mapping names a field or a column that does not exist."""

    code = "mapping.invalid"
    status = 422


class Importer(Protocol):
    """One source of calls."""

    kind: str
    documented: Convention | None  # whether its input counts cached tokens, where its makers say so
    notes: tuple[str, ...]  # what it assumes, in sentences

    @property
    def columns(self) -> Mapping[str, str]:
        """Field -> column that it is read from."""

    def values(self, row: Row) -> list[str | None]:
        """The call in `row`, in the order of FIELDS."""


Maker = Callable[[tuple[str, ...], Mapping[str, str | None]], Importer | None]
_makers: list[tuple[int, Maker]] = []


def importer(*, order: int) -> Callable[[Maker], Maker]:
    """Register a maker of importers, which answers None for columns it does not know; lower orders are asked first."""

    def register(maker: Maker) -> Maker:
        _makers.append((order, maker))
        return maker

    return register


def importer_for(columns: tuple[str, ...], mapping: Mapping[str, str | None]) -> Importer:
    """The importer for a table with `columns`. A `mapping` (field -> column, None for "no column") overrules guesses.

    Raises:
        NoUsableColumns, WrongMapping: see there.
    """
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    _check_mapping(columns, mapping)
    for _, maker in sorted(_makers, key=lambda entry: entry[0]):
        if (found := maker(columns, mapping)) is not None:
            return found
    raise NoUsableColumns(
        f"No column holds token counts. Columns found: {_listed(columns)}. Say which do, for example "
        "input_tokens=prompt_len: under “Column names, where unusual” of the Data page, after --map in the terminal, "
        "or as `mapping` over REST."
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
