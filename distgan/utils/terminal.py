"""Tables and lines on a terminal, at its width, nothing truncated, and text never parsed as markup."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from distgan.errors import IS_QUIET, printable
from distgan.utils.output import GuardedStream

_WIDTH_OF_FILES = 160
_ONE_LINE, _SEVERAL_LINES = 16, 12  # longest entry that is not wrapped, and least width of wrapped entries


def in_notebook() -> bool:
    """True in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class TerminalConsole(Console):
    """Console for untrusted text: no markup, no highlighting, control characters escaped.

    Output to a file or a pipe is not wrapped, also with $FORCE_COLOR, unless $COLUMNS is set.
    """

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        width: int | None = None,
        stderr: bool = False,
        quiet: bool = False,
        soft_wrap: bool | None = None,
    ):
        stderr = stderr and not in_notebook()  # where stderr has a red background, as errors have
        stream: Any = file or (sys.stderr if stderr else sys.stdout)
        if stderr and stream is not None:  # not guarded yet where a program calls train()
            file = GuardedStream("stderr", stream)  # type: ignore[assignment]
        self.is_screen = stream is not None and stream.isatty()
        columns = os.environ.get("COLUMNS", "")
        if self.is_screen and width is None and columns.isdecimal() and not int(columns):  # COLUMNS=0
            width = shutil.get_terminal_size().columns
        has_width = self.is_screen or width is not None or (columns.isdecimal() and int(columns) > 0)
        super().__init__(
            file=file,
            stderr=stderr,
            quiet=quiet or IS_QUIET.get(),
            force_jupyter=False,  # lines of text, in a notebook too
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=not has_width if soft_wrap is None else soft_wrap,
            width=width if has_width else _WIDTH_OF_FILES,
        )

    def on_broken_pipe(self) -> None:
        """Print nothing more instead of exiting, which is rich's default."""
        self.quiet = True

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def print_table(self, table: Table) -> None:
        """Print a table, or each of its rows as a paragraph if the screen is too narrow."""
        table_width = Measurement.get(self, self.options.update(max_width=10_000), table).maximum
        if table_width > self.width and not _shrink_columns(table.columns, table_width - self.width):
            self._print_paragraphs(table)
            return
        self.print(table, soft_wrap=False, crop=False)

    def _print_paragraphs(self, table: Table) -> None:
        if table.title:
            self.print(table.title, style="italic")
        heads = [" ".join(str(column.header).split()) for column in table.columns]
        for row, entries in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
            named = [(head, entry) for head, entry in zip(heads, entries, strict=True) if str(entry)]
            for number, (head, entry) in enumerate(named):
                self.print("  " * (number > 0) + (f"{head}: " if head else "") + str(entry), style=row.style)
        if table.caption:
            self.print(table.caption, style="dim")


def _unwrapped_width(column: Column) -> int:
    """Return the width of a column with nothing wrapped."""
    return max([column.min_width or 0, *map(cell_len, _lines([column.header, *column.cells]))])


def _lines(entries: Iterable[RenderableType]) -> list[str]:
    return [line for entry in entries for line in printable(entry).splitlines()]


def _shrink_columns(columns: Sequence[Column], excess: int) -> bool:
    """Shrink columns by `excess` in total; return False if text would be truncated.

    Short entries stay on one line, below a header of several.
    """
    max_widths = [_unwrapped_width(column) for column in columns]
    min_widths = [_set_wrapping(column) for column in columns]
    spare = sum(max_widths) - excess - sum(min_widths)
    if spare < 0:
        return False
    num_wrapped = sum(not column.no_wrap for column in columns)  # they share the spare width
    for column, low, high in zip(columns, min_widths, max_widths, strict=True):
        column.width = low
        if not column.no_wrap:
            column.width += min(spare // num_wrapped, max(0, high - low))
            spare, num_wrapped = spare - column.width + low, num_wrapped - 1
    return True


def _set_wrapping(column: Column) -> int:
    """Set how a column wraps, and return the least width that truncates nothing."""
    word_widths = [cell_len(word) for word in printable(column.header).split()]
    longest = max(map(cell_len, _lines(column.cells)), default=0)
    if longest <= _ONE_LINE or column.no_wrap:
        width = max([longest, *word_widths])
        # Only its header takes several lines.
        column.header = "\n".join(wrap(printable(column.header), max(width, 1), break_on_hyphens=False))
        column.no_wrap = True
        return width
    column.overflow = "fold"
    return max([_SEVERAL_LINES, *word_widths])
