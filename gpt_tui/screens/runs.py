"""The runs page: every run with its state and checkpoints. Knows no app and no worker."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from gpt_model.errors import GptError
from gpt_model.runs import Run, SavedCheckpoint, Status, list_runs
from gpt_tui.screens.confirm import Confirm
from gpt_tui.screens.run_text import shape
from gpt_tui.widgets.header_line import HeaderLine

EMPTY = "No runs yet.\n\nF3, then n, starts one."
Entry = tuple[Run, Status, list[SavedCheckpoint]]


class RunsScreen(Screen[None]):
    """A table of runs; each key acts on the row under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "watch", "Watch", priority=True, id="runs.watch"),
        Binding("t", "talk('')", "Talk", id="runs.talk"),
        Binding("T", "talk('last')", "Talk to last", show=False, id="runs.talk_last"),
        Binding("r", "resume", "Resume", id="runs.resume"),
        Binding("s", "stop", "Stop", id="runs.stop"),
        Binding("d,delete", "remove", "Delete", id="runs.remove"),
        Binding("n", "new", "New", id="runs.new"),
    ]
    DEFAULT_CSS = """
    RunsScreen {
        layout: vertical;
        #empty { height: 1fr; content-align: center middle; text-align: center; color: $text-muted; display: none; }
        DataTable { height: 1fr; padding: 0 1; }
        #detail { height: 2; padding: 0 1; color: $text-muted; border-top: solid $panel-lighten-2; }
        &.-empty #empty { display: block; }
        &.-empty DataTable, &.-empty #detail { display: none; }
    }
    """

    @dataclass
    class WatchWanted(Message):
        """A run is to be shown on the training page."""

        run: Run

    @dataclass
    class TalkWanted(Message):
        """A checkpoint is to be opened on the completion page."""

        checkpoint: str

    class NewRunWanted(Message):
        """A run is to be started."""

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self._runs = runs
        self._entries: list[Entry] = []

    def compose(self) -> ComposeResult:
        yield HeaderLine("Runs")
        yield Static(EMPTY, id="empty", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=False)
        yield Static(id="detail", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for label in ("run", "state", "step", "val", "model", "saved", "started"):
            table.add_column(label, key=label)
        self.set_interval(2.0, self.poll)

    def on_screen_resume(self) -> None:
        self.poll()

    @work(exclusive=True, group="runs")
    async def poll(self) -> None:
        """Read every run's status, off the event loop, and show what changed."""
        if not self.is_current:
            return
        entries = await asyncio.to_thread(_read_entries, self._runs)
        if entries == self._entries and self._entries:
            return
        self._entries = entries
        self.set_class(not entries, "-empty")
        table = self.query_one(DataTable)
        row = table.cursor_row
        table.clear()
        for run, status, checkpoints in entries:
            table.add_row(*_cells(run, status, checkpoints), key=run.name)
        table.move_cursor(row=min(row, max(len(entries) - 1, 0)))
        self.call_after_refresh(table.refresh, layout=True)  # its columns are measured later, when it is idle
        live = sum(status.state in ("starting", "running", "paused") for _, status, _ in entries)
        header = self.query_one(HeaderLine)
        header.state, header.mood = (
            (f"{live} running", "live") if live else (f"{len(entries)} run{'s' * (len(entries) != 1)}", "state")
        )
        self._show_detail()
        self.refresh_bindings()

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        entry = self._current
        if entry is None:
            return
        run, status, checkpoints = entry
        files = ", ".join(Path(file).name for file in run.config.files) or "the documentation that comes with Python"
        saved = ", ".join(f"{each.step:,}{' (best)' if each.is_best else ''}" for each in checkpoints) or "none yet"
        text = f"{files} · {run.config.tokenizer} · checkpoints: {saved}"
        self.query_one("#detail", Static).update(Text(f"{text}\n{status.message}", no_wrap=True, overflow="ellipsis"))
        self.refresh_bindings()

    @property
    def _current(self) -> Entry | None:
        row = self.query_one(DataTable).cursor_row
        return self._entries[row] if 0 <= row < len(self._entries) else None

    def action_watch(self) -> None:
        """Show the run on the training page."""
        if self._current:
            self.post_message(self.WatchWanted(self._current[0]))

    def action_talk(self, which: str) -> None:
        """Open a checkpoint of the run on the completion page."""
        if self._current:
            run, _, checkpoints = self._current
            if checkpoints:
                self.post_message(self.TalkWanted(f"{run.name}:{which}" if which else run.name))
            else:
                self.notify("This run has no checkpoint yet.", severity="warning")

    def action_resume(self) -> None:
        """Start the run again from its last checkpoint."""
        self._try(lambda run: run.launch())

    def action_stop(self) -> None:
        """Ask the run to save and stop."""
        self._try(lambda run: run.send("stop"))

    def action_remove(self) -> None:
        """Delete the run, after a question."""
        if self._current is None:
            return
        run, _, checkpoints = self._current

        def remove(sure: bool | None) -> None:
            if sure:
                self._try(lambda _: run.remove())
                self._entries = []

        question = f"Delete the run '{run.name}' with its {len(checkpoints)} checkpoints? This cannot be undone."
        self.app.push_screen(Confirm(question, "Delete"), remove)

    def action_new(self) -> None:
        """Start a run."""
        self.post_message(self.NewRunWanted())

    def _try(self, act: Callable[[Run], object]) -> None:
        if self._current:
            try:
                act(self._current[0])
            except GptError as error:
                self.notify(str(error), severity="warning", markup=False)
            self.poll()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        entry = self._current if self.is_mounted else None
        state = entry[1].state if entry else "none"
        if action == "resume":
            return state in ("stopped", "failed", "lost")
        if action == "stop":
            return state in ("starting", "running", "paused")
        return action in ("new",) or entry is not None


def _read_entries(root: Path) -> list[Entry]:
    return [(run, run.status(), run.checkpoints()) for run in list_runs(root)]


def _cells(run: Run, status: Status, checkpoints: list[SavedCheckpoint]) -> list[Text]:
    style = {"running": "bold", "starting": "bold", "paused": "bold", "failed": "italic", "lost": "italic"}
    loss = status.best_val_loss if status.best_val_loss is not None else status.train_loss
    started = status.started_at
    return [
        Text(run.name),
        Text(status.state, style.get(status.state, "")),
        Text(f"{status.step:,}/{status.max_steps:,}", justify="right"),
        Text(f"{loss:.3f}" if loss is not None else "–", justify="right"),
        Text(shape(run.config.model)),
        Text(str(len(checkpoints)), justify="right"),
        Text(time.strftime("%d %b %H:%M", time.localtime(started)) if started else "–"),
    ]
