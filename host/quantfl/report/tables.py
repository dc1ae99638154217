"""Tables that never cut a digit: what does not fit is dropped or stacked, and names are shortened so that
they can be told apart.

A `FittedTable` chooses its form when it is drawn, for the width it is given:

1. as it is;
2. without a frame, names shortened to what tells them apart;
3. without the columns that may be missed, in the order the table names; a line below says which are missing;
4. stacked: a block of `column value` pairs for every row.

Where the output is no terminal, `quantfl.cli.output.console` gives all the width a table asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NAME_MIN = 8  # cells below which a name is not shortened: stacking reads better
_WIDE = 100_000  # cells: measures a table as if there were no edge


@dataclass(frozen=True)
class Column:
    """One column.

    title: its heading. right: numbers, aligned to the right. drop: 0 stays; the largest is the first to be
    left out. name: its cells are names, which may be shortened.
    """

    title: str
    right: bool = False
    drop: int = 0
    name: bool = False


def number(title: str, drop: int = 0) -> Column:
    """A column of numbers."""
    return Column(title, right=True, drop=drop)


def tell_apart(names: Sequence[str], width: int) -> list[str] | None:
    """Every name in at most `width` cells, an ellipsis where something is left out. None: two different names
    would look the same.

    width: 2 at least. The ends of a name are kept in the proportion that keeps all names different.
    """
    kept = max(1, width - 1)
    for tail in sorted(range(kept + 1), key=lambda t: abs(2 * t - kept)):
        short = [_shortened(n, kept - tail, tail) if cell_len(n) > width else n for n in names]
        if len(set(short)) == len(set(names)):
            return short
    return None


def _shortened(name: str, head: int, tail: int) -> str:
    return name[:head] + "…" + (name[-tail:] if tail else "")


@dataclass
class FittedTable:
    """A table that is drawn in the widest form that fits.

    columns, rows: cells are text or rich's Text; a row is shorter than the columns where nothing is left to
    say. sections: numbers of rows after which a line is drawn. repeat: the first cell of a row stands for
    those below it that are empty; stacked, it is repeated.
    """

    columns: Sequence[Column]
    rows: list[list[str | Text]] = field(default_factory=list)
    title: str | None = None
    sections: set[int] = field(default_factory=set)
    repeat: bool = False

    def add(self, *cells: str | Text) -> None:
        """Add a row."""
        self.rows.append([*cells, *[""] * (len(self.columns) - len(cells))])

    def section(self) -> None:
        """Draw a line below the last row."""
        if self.rows:
            self.sections.add(len(self.rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        all_of_it = range(len(self.columns))
        if _width(console, table := self._table(all_of_it, self.rows, framed=True)) <= width:
            yield table
            return
        dropped: list[int] = []
        order = sorted((i for i in all_of_it if self.columns[i].drop), key=lambda i: -self.columns[i].drop)
        for last in (None, *order):
            dropped += [] if last is None else [last]
            left = [i for i in all_of_it if i not in dropped]
            fitting = self._narrowed(console, left, width)
            if fitting is not None:
                yield fitting
                if dropped:
                    names = ", ".join(self.columns[i].title for i in sorted(dropped))
                    yield Text(f"not shown at {width} columns: {names}", style="dim")
                return
        yield from self._stacked(width)

    def _narrowed(self, console: Console, left: Sequence[int], width: int) -> Table | None:
        """Without a frame, with names as short as need be; None: these columns do not fit."""
        if _width(console, table := self._table(left, self.rows, framed=False)) <= width:
            return table
        names = [i for i in left if self.columns[i].name]
        longest = max((_cells(r[i]) for i in names for r in self.rows), default=0)
        if len(names) == 1:  # all that is too much has to come off this one
            longest -= _width(console, table) - width
        for most in range(longest, NAME_MIN - 1, -1):
            rows = [list(r) for r in self.rows]
            for i in names:
                short = tell_apart([_plain(r[i]) for r in rows], most)
                if short is None:
                    return None
                for row, text in zip(rows, short, strict=True):
                    row[i] = Text(text, style=cell.style) if isinstance(cell := row[i], Text) else text
            if _width(console, table := self._table(left, rows, framed=False)) <= width:
                return table
        return None

    def _table(self, left: Iterable[int], rows: Sequence[Sequence[str | Text]], *, framed: bool) -> Table:
        table = Table(title=self.title, title_justify="left")
        if not framed:
            table.box, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, False, False
            table.padding = (0, 1, 0, 0)
        for i in left:
            column = self.columns[i]
            table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
        for number_, row in enumerate(rows):
            cells = (row[i] for i in left)
            table.add_row(
                *(c if isinstance(c, Text) else escape(c) for c in cells),
                end_section=number_ in self.sections,
            )
        return table

    def _stacked(self, width: int) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        first: str | Text = ""
        for row in self.rows:
            first = row[0] if _plain(row[0]) or not self.repeat else first
            lead = f"{self.columns[0].title} " if self.columns[0].right else ""
            yield Text(lead + _plain(first), style="bold")
            line = Text("  ")
            for column, cell in zip(self.columns[1:], row[1:], strict=True):
                if not _plain(cell):
                    continue
                pair = (
                    Text.assemble((f"{column.title} ", "dim"), cell) if column.title else Text.assemble(cell)
                )
                if line.cell_len > 2 and line.cell_len + 2 + pair.cell_len > width:
                    yield line
                    line = Text("  ")
                line = Text.assemble(line, "  " if line.cell_len > 2 else "", pair)
            if line.cell_len > 2:
                yield line


def _plain(cell: str | Text) -> str:
    return cell.plain if isinstance(cell, Text) else cell


def _cells(cell: str | Text) -> int:
    return cell_len(_plain(cell))


def _width(console: Console, table: Table) -> int:
    """Cells that a table needs for its columns; its title may be wrapped."""
    title, table.title = table.title, None
    try:
        return Measurement.get(console, console.options.update(max_width=_WIDE), table).maximum
    finally:
        table.title = title
