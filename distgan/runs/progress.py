"""Progress display: a bar on a terminal, a line that changes in a notebook, else lines in a log. Rank 0 only."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from distgan.training.metrics import MetricRecord
from distgan.utils.parts_progress import format_hms
from distgan.utils.terminal import TerminalConsole, in_notebook

PLAIN_EVERY_S = 10.0
NOTEBOOK_EVERY_S = 0.5

_LONG, _SHORT = "d_loss {:.3f}  g_loss {:.3f}  {:,.0f} images/s", "D {:.3f}  G {:.3f}  {:,.0f}/s"


def _min_columns(form: str) -> int:
    """Return the columns that the numbers need, with the shortest bar and its spaces."""
    return len(form.format(99.999, 99.999, 99_999)) + len("  ━━━━")


class ProgressDisplay:
    """Epoch, time left, losses and images/s of a run of `total_steps`. Silent unless `is_main`."""

    def __init__(self, total_steps: int, steps_per_epoch: int, step: int, is_main: bool):
        # soft_wrap: plain lines go to files and other programs, and are not wrapped.
        self.console = TerminalConsole(stderr=True, quiet=not is_main, soft_wrap=True)
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self._first_step, self._started, self._printed_at = step, time.perf_counter(), -PLAIN_EVERY_S
        # Columns for the numbers and the bar; a narrower screen gets shorter text, and a still narrower one no bar.
        room = self.console.width - len(
            f"epoch {self._epoch(total_steps)} {total_steps:,}/{total_steps:,} left 0:00:00"
        )
        self._form, steps = (_LONG, " steps") if room >= _min_columns(_LONG) + len(" steps") else (_SHORT, "")
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}}{steps}"),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
        )
        is_wide = room >= _min_columns(_SHORT)
        self._is_live = self.console.is_screen and not self.console.is_dumb_terminal and is_wide
        self._task = self._bar.add_task("", total=total_steps, completed=step, epoch=self._epoch(step), numbers="")
        self._cell = _NotebookLine() if in_notebook() and not self.console.quiet else None

    def __enter__(self) -> "ProgressDisplay":
        if self._is_live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line, above the bar if there is one."""
        if text:
            self._bar.console.print(text, style=style)

    def warn(self, messages: list[str]) -> None:
        for message in messages:
            self.say(f"warning: {message}", "yellow")

    def advance(self, step: int) -> None:
        if self._is_live:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step))

    def show(self, record: MetricRecord | None) -> None:
        """Show the newest metrics; None if there are none yet."""
        if record is None:
            return
        numbers = (record.d_loss, record.g_loss, record.images_per_s)
        if self._is_live:
            self._bar.update(self._task, numbers=self._form.format(*numbers))
            return
        now = time.perf_counter()
        every_s = NOTEBOOK_EVERY_S if self._cell else PLAIN_EVERY_S
        if now - self._printed_at >= every_s or record.step == self.total_steps:
            self._printed_at = now
            done = record.step - self._first_step
            left_s = (now - self._started) / done * (self.total_steps - record.step) if done else 0.0
            counts = f"epoch {self._epoch(record.step)}  step {record.step:,}/{self.total_steps:,}"
            text = f"{counts}  {_LONG.format(*numbers)}  left {format_hms(left_s)}"
            if self._cell:
                filled = 20 * record.step // self.total_steps
                self._cell.show(f"{'━' * filled}{'╌' * (20 - filled)}  {text}")
            else:
                self.say(text)

    def _epoch(self, step: int) -> str:
        """Return `EPOCH/EPOCHS` of a step, counted from 1."""
        epochs = -(-self.total_steps // self.steps_per_epoch)
        return f"{max(1, min(epochs, -(-step // self.steps_per_epoch)))}/{epochs}"


class _NotebookLine:
    """A line below a cell of a notebook that is replaced by the next, without widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import display  # there, as a notebook runs

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)
