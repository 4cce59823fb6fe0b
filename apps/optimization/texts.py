"""What a row says, as SQL: text by the name of its column, or by a place inside the JSON that a column holds.

A place is written `column/key/key`; a column is any name that the reader gives, also a dotted one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.optimization.duck import named, quoted

NOTHING = "NULL"
# Our columns beside those of the file, one of which may well be called "line".
ROW, LINE = "netra row number", "netra line number"
_EMPTY = ("", "{}", "[]", '""', "null")  # what is written where nothing is said


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the text of a name is: in a column of the relation, and by these keys inside its JSON."""

    column: str
    keys: tuple[str, ...] = ()


@dataclass
class Texts:
    """Builds expressions over the columns of a file, and remembers which columns they need."""

    places: Mapping[str, Place]  # name -> place, in the order of the file
    needed: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # column -> paths into its JSON
    _derived: dict[str, str] = field(default_factory=dict)  # name -> expression over the columns
    _inside: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)  # derived name -> paths into its JSON
    _said: dict[str, str] = field(default_factory=dict)  # what it takes that a text says something -> its name
    _trimmed: set[str] = field(default_factory=set)  # expressions whose texts have no blanks around them

    @property
    def columns(self) -> tuple[str, ...]:
        """The names that the file has."""
        return tuple(self.places)

    def at(self, name: str) -> str:
        """The text at a name or place; NULL where the file has no such column."""
        place = self._place(name)
        if place is None:
            return NOTHING
        here = self._inside if place.column in self._derived else self.needed
        paths = here.setdefault(place.column, [])
        if not place.keys:
            return f'"text".{named(place.column)}'
        if place.keys not in paths:
            paths.append(place.keys)
        return f'"text".{_piece(place.column, paths.index(place.keys))}'

    def first(self, *names: str) -> str:
        """The first of several places that says something, trimmed; empty objects and lists say nothing."""
        found = self._first("trimmed_something", names)
        self._trimmed.add(found)
        return found

    def first_untouched(self, *names: str) -> str:
        """As `first`, but as it stands, with the blanks around it: a prompt is another one without them."""
        return self._first("said_something", names)

    def is_trimmed(self, text: str) -> bool:
        """Whether an expression is one of `first`."""
        return text in self._trimmed

    def _first(self, macro: str, names: Iterable[str]) -> str:
        # Under a name: a macro writes its argument out wherever it is used, and statements would grow without end.
        texts = [f"{macro}({at})" for at in map(self.at, names) if at != NOTHING]
        said = [self._said.setdefault(text, f"netra said {len(self._said)}") for text in texts]
        return _first([f'"text".{named(name)}' for name in said])

    def derive(self, name: str, *names: str) -> None:
        """Give the first of several places a name of its own, so that many texts inside of it are found at once."""
        texts = [at for at in map(self.at, names) if at != NOTHING]
        if texts:
            self._derived[name] = _first([f"said_something({at})" for at in texts])

    def forget(self) -> None:
        """Forget what was asked for."""
        for asked in (self.needed, self._derived, self._inside, self._said, self._trimmed):
            asked.clear()

    def relation(self, source: str) -> str:
        """`source`, which has the needed columns, ROW and LINE, with the JSON that is looked into taken apart."""
        columns = [named(ROW), named(LINE), *map(named, self.needed)]
        rows = _apart(f'(SELECT {", ".join(columns)} FROM {source}) "text"', self.needed)  # noqa: S608
        if self._derived:
            named_ones = ", ".join(f"{sql} AS {named(name)}" for name, sql in self._derived.items())
            rows = _apart(f'(SELECT *, {named_ones} FROM {rows}) "text"', self._inside)  # noqa: S608
        if self._said:
            said = ", ".join(f"{text} AS {named(name)}" for text, name in self._said.items())
            rows = f'(SELECT *, {said} FROM {rows}) "text"'  # noqa: S608
        return rows

    def _place(self, name: str) -> Place | None:
        if name in self.places:
            return self.places[name]
        column, *keys = name.split("/")
        if column in self._derived:
            return Place(column=column, keys=tuple(keys))
        if not keys or column not in self.places:
            return None
        outer = self.places[column]
        return Place(column=outer.column, keys=(*outer.keys, *keys))


# Not with IN: of more than a few words DuckDB makes a join, which takes 16 MiB each time. What is plain ASCII and
# begins and ends visibly is not trimmed, for that looks up each character. A text that stays may have any inside.
_SAYS_NOTHING = " ".join(f"WHEN {quoted(word)} THEN NULL" for word in _EMPTY)
_SOMETHING = f"CASE WHEN strlen(t) > {max(map(len, _EMPTY))} THEN t ELSE CASE t {_SAYS_NOTHING} ELSE t END END"
_PLAIN = "t >= '!' AND strlen(t) = length(t) AND NOT ends_with(t, ' ')"
MACROS = (
    f"CREATE TEMP MACRO said(t) AS CASE WHEN {_PLAIN} THEN t ELSE nullif(trim(t), '') END",
    f"""CREATE TEMP MACRO said_something(t) AS
        CASE WHEN t >= '!' AND t <= '~' AND NOT ends_with(t, ' ') THEN {_SOMETHING}
        ELSE CASE trim(t) {_SAYS_NOTHING} ELSE t END END""",
    f"""CREATE TEMP MACRO trimmed_something(t) AS
        CASE WHEN {_PLAIN} THEN {_SOMETHING} ELSE CASE trim(t) {_SAYS_NOTHING} ELSE trim(t) END END""",
)


def _first(texts: Sequence[str]) -> str:
    return f"coalesce({', '.join(texts)})" if len(texts) > 1 else "".join(texts) or NOTHING


def _apart(rows: str, paths: Mapping[str, list[tuple[str, ...]]]) -> str:
    """`rows` with a column for each text inside of a column's JSON; NULL where it holds no JSON.

    The JSON is read once for all texts that fit into one shape, and by itself for each that does not.
    """
    asked = {column: inside for column, inside in paths.items() if inside}
    if not asked:
        return rows
    shaped, pieces = [], []
    for column, inside in asked.items():
        shape: Shape = {}
        fits = [_fit(shape, path) for path in inside]
        whole = named(f"{column} inside")
        shaped.append(f"try(from_json({named(column)}, {quoted(json.dumps(_spelled(shape)))})) AS {whole}")
        pieces += [
            (f"{whole}{_steps(path)}" if fit else f"try(json_extract_string({named(column)}, {_path(path)}))")
            + f" AS {_piece(column, number)}"
            for number, (path, fit) in enumerate(zip(inside, fits, strict=True))
        ]
    rows = f'(SELECT {", ".join(["*", *shaped])} FROM {rows}) "text"'  # noqa: S608
    return f'(SELECT {", ".join(["*", *pieces])} FROM {rows}) "text"'  # noqa: S608


Shape = dict[str, Any]  # key -> Shape, or "VARCHAR" where a text is read; a key of digits is a place in a list


def _fit(shape: Shape, path: tuple[str, ...]) -> bool:
    """Add `path` to `shape`, unless a text stands where it goes on, or a key that DuckDB takes for the same."""
    key, *rest = path
    there = shape.get(key)
    alike = [other for other in shape if other != key and (other.casefold() == key.casefold())]
    mixed = any(_is_place(other) != _is_place(key) for other in shape)
    if alike or mixed or (there is not None and (not rest or isinstance(there, str))):
        return False
    if not rest:
        shape[key] = "VARCHAR"
        return True
    inner: Shape = {} if there is None else there
    if not _fit(inner, tuple(rest)):
        return False
    shape[key] = inner
    return True


def _spelled(shape: Shape | str) -> Any:
    """A shape as `from_json` wants it."""
    if isinstance(shape, str):
        return shape
    inner = {key: _spelled(value) for key, value in shape.items()}
    return [_together(list(inner.values()))] if inner and all(map(_is_place, inner)) else inner or "JSON"


def _together(shapes: list[Any]) -> Any:
    """One shape for all elements of a list."""
    objects = [shape for shape in shapes if isinstance(shape, dict)]
    return {key: value for shape in objects for key, value in shape.items()} if objects else shapes[0]


def _steps(path: tuple[str, ...]) -> str:
    return "".join(f"[{int(key) + 1}]" if _is_place(key) else f".{named(key)}" for key in path)


def _is_place(key: str) -> bool:
    """Whether a key is a place in a list: plain digits, and so few that there may be such a place."""
    return key.isascii() and key.isdecimal() and len(key) < 10


def _piece(column: str, number: int) -> str:
    return named(f"{column} inside {number}")


def _path(keys: Iterable[str]) -> str:
    """A JSON pointer, which any key can stand in; a number is also a place in a list."""
    return quoted("".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys))
