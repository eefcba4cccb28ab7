"""Progress of a command with several parts: a bar with the time left on a terminal, lines elsewhere."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distgan.utils.terminal import TerminalConsole

_LEAST_DONE = 0.02
_SILENT_S = 10.0  # between two lines of many short parts


class PartsProgress:
    """Progress over `num` parts of about the same length, on stderr; `label` names them."""

    def __init__(self, num: int, label: str):
        self.num, self.num_done = num, 0
        self._console = TerminalConsole(stderr=True, soft_wrap=True)
        self._bar = Progress(
            TextColumn(label), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("left"),
            TimeRemainingColumn(compact=True), console=self._console, expand=True, transient=True,
        )  # fmt: skip
        self._is_live = self._console.is_screen and not self._console.is_dumb_terminal
        self._task = self._bar.add_task("", total=num)
        self._label = label
        self._start = self._printed_at = time.monotonic()

    def __enter__(self) -> "PartsProgress":
        if self._is_live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._console.print(text)

    def advance(self, num: int) -> None:
        """Count `num` parts as done; without a bar print a line every ten seconds."""
        self.num_done += num
        self._bar.update(self._task, completed=self.num_done)
        is_early = self.num_done < _LEAST_DONE * self.num  # too early to tell the time left
        if self._is_live or is_early or self.num_done == self.num:
            return
        if time.monotonic() - self._printed_at > _SILENT_S:
            self._printed_at = time.monotonic()
            self.say(f"{self._label}: {self.num_done / self.num:.0%}; about {format_hms(self._remaining_s())} left")

    def _remaining_s(self) -> float:
        return (time.monotonic() - self._start) / self.num_done * (self.num - self.num_done)

    def finish(self, text: str) -> None:
        """Count a part as done and print its result; without a bar with the time left."""
        self.num_done += 1
        self._bar.update(self._task, completed=self.num_done)
        remaining_s = self._remaining_s()
        self.say(text if self._is_live or not remaining_s else f"{text}; about {format_hms(remaining_s)} left")


def format_hms(seconds: float) -> str:
    """Return `1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
