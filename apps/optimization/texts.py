"""What a row says, as SQL: text by the name of its column, or by a place inside the JSON that a column holds.

A place is written `column/key/key`; a column is any name that the reader gives, also a dotted one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apps.optimization.duck import named, quoted

NOTHING = "NULL"
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
        return f'"text".{_inside(place.column)}[{paths.index(place.keys) + 1}]'

    def first(self, *names: str) -> str:
        """The first of several places that says something; empty objects and lists say nothing."""
        found = [f"said_something({at})" for at in map(self.at, names) if at != NOTHING]
        return f"coalesce({', '.join(found)})" if len(found) > 1 else "".join(found) or NOTHING

    def derive(self, name: str, *names: str) -> None:
        """Give the first of several places a name of its own, so that many texts inside of it are found at once."""
        if (found := self.first(*names)) != NOTHING:
            self._derived[name] = found

    def forget(self) -> None:
        """Forget what was asked for."""
        for asked in (self.needed, self._derived, self._inside):
            asked.clear()

    def relation(self, source: str) -> str:
        """`source`, which has the needed columns and `line`, with the JSON that is looked into taken apart."""
        columns = ["line", *map(named, self.needed)]
        rows = f'(SELECT {", ".join(columns + _apart(self.needed))} FROM {source}) "text"'  # noqa: S608
        if self._derived:
            named_ones = ", ".join(f"{sql} AS {named(name)}" for name, sql in self._derived.items())
            rows = f'(SELECT *, {named_ones} FROM {rows}) "text"'  # noqa: S608
            rows = f'(SELECT {", ".join(["*", *_apart(self._inside)])} FROM {rows}) "text"'  # noqa: S608
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


MACRO = f"CREATE TEMP MACRO said_something(t) AS CASE WHEN trim(t) NOT IN {_EMPTY} THEN t END"


def _inside(column: str) -> str:
    return named(f"inside {column}")


def _apart(paths: Mapping[str, list[tuple[str, ...]]]) -> list[str]:
    """For each column that is looked into, the list of the texts at its paths; NULL where it holds no JSON."""
    return [
        f"try(json_extract_string({named(column)}, [{', '.join(map(_path, inside))}])) AS {_inside(column)}"
        for column, inside in paths.items()
        if inside
    ]


def _path(keys: Iterable[str]) -> str:
    """A JSON path; a number is a place in a list."""
    steps = (f"[{key}]" if key.isdigit() else f'."{key}"' for key in keys)
    return quoted(f"${''.join(steps)}")
