"""The training page: one run from its directory, live. Progress, curves, samples, events. Knows no app and no worker.

It only reads files and leaves commands in the mailbox: closing it changes nothing for the run.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from gpt_model.errors import GptError
from gpt_model.runs import Run, list_runs
from gpt_tui.run_tail import RunTail
from gpt_tui.screens.run_text import describe_run, event_lines, sample_text
from gpt_tui.screens.setting_prompt import SettingPrompt
from gpt_tui.widgets.curve_view import CurveView
from gpt_tui.widgets.header_line import HeaderLine
from gpt_tui.widgets.progress_line import ProgressLine

EMPTY = "No runs yet.\n\nn starts one: on a text file of yours, or on the documentation that comes with Python."


class TrainScreen(Screen[None]):
    """Start, watch, pause, resume, stop, edit a run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New", id="train.new"),
        Binding("p", "pause", "Pause", id="train.pause"),
        Binding("r", "resume", "Resume", id="train.resume"),
        Binding("s", "stop", "Stop", id="train.stop"),
        Binding("c", "command('checkpoint')", "Save", id="train.checkpoint", tooltip="Save a checkpoint now"),
        Binding("a", "command('sample')", "Sample", id="train.sample"),
        Binding("e", "edit", "Edit", id="train.edit"),
        Binding("t", "talk", "Talk", id="train.talk", tooltip="Complete text with its newest checkpoint"),
        Binding("l", "log", "Log scale", show=False, id="train.log"),
        Binding("left_square_bracket", "other(1)", "Older run", show=False, id="train.older"),
        Binding("right_square_bracket", "other(-1)", "Newer run", show=False, id="train.newer"),
    ]
    DEFAULT_CSS = """
    TrainScreen {
        layout: vertical;
        #empty { height: 1fr; content-align: center middle; text-align: center; color: $text-muted; display: none; }
        #about { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        ProgressLine { height: 1; margin: 0 1; }
        CurveView { height: 1fr; min-height: 6; margin: 0 1; }
        #sample { height: auto; max-height: 5; padding: 0 1; margin: 0 0; border-top: solid $panel-lighten-2; }
        #events { height: auto; max-height: 4; padding: 0 1; color: $text-muted; border-top: solid $panel-lighten-2; }
        &.-empty #empty { display: block; }
        &.-empty .run { display: none; }
    }
    """

    class NewRunWanted(Message):
        """A run is to be started."""

    @dataclass
    class TalkWanted(Message):
        """A run's newest checkpoint is to be opened on the completion page."""

        checkpoint: str

    def __init__(self, runs: Path, slow_line: bool = False) -> None:
        super().__init__()
        self._runs = runs
        self._interval = 1.0 if slow_line else 0.5
        self._tail: RunTail | None = None
        self._reading = asyncio.Lock()

    def compose(self) -> ComposeResult:
        yield HeaderLine("Train")
        yield Static(EMPTY, id="empty", markup=False)
        with Vertical(classes="run"):
            yield Static(id="about", markup=False)
            yield ProgressLine()
            yield CurveView()
            yield Static(id="sample", markup=False)
            yield Static(id="events", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.set_interval(self._interval, self.poll)
        self.show_run(None)

    def on_screen_resume(self) -> None:
        if self._tail is None:
            self.show_run(None)
        self.poll()

    def show_run(self, run: Run | None) -> None:
        """Show this run; None shows the newest."""
        runs = [run] if run else list_runs(self._runs)
        self._tail = RunTail(runs[0]) if runs else None
        self.set_class(self._tail is None, "-empty")
        header = self.query_one(HeaderLine)
        header.left, header.state = "", ""
        self.poll()
        self.refresh_bindings()

    @work(exclusive=True, group="tail")
    async def poll(self) -> None:
        """Read what is new, off the event loop, and show it."""
        tail = self._tail
        if tail is None or not self.is_current:
            return
        async with self._reading:
            try:
                news = await asyncio.to_thread(tail.read)
            except (GptError, OSError) as error:
                self.notify(str(error), severity="error", markup=False)
                self._tail = None
                self.set_class(True, "-empty")
                return
        if tail is self._tail and (news or not self.query_one("#about", Static).content):
            self._show(tail)

    def _show(self, tail: RunTail) -> None:
        status, train = tail.status, tail.run.config.train
        header = self.query_one(HeaderLine)
        header.left = tail.run.name
        header.state = f"{status.state}  step {status.step:,}"
        header.mood = {"running": "live", "starting": "live", "failed": "alarm", "lost": "alarm"}.get(
            status.state, "state"
        )
        self.query_one("#about", Static).update(describe_run(tail))
        self.query_one(ProgressLine).set_progress(
            fraction=status.step / max(status.max_steps or train.max_steps, 1),
            tokens_per_second=status.tokens_per_second,
            learning_rate=status.learning_rate,
            grad_norm=status.grad_norm,
            eta_seconds=status.eta_seconds,
        )
        curves = self.query_one(CurveView)
        curves.set_series(*(tail.series(name) for name in ("train_loss", "smoothed", "val_loss")))
        curves.set_marks(
            checkpoint=[each.step for each in tail.checkpoints],
            edit=tail.steps_of("edit"),
            spike=tail.steps_of("spike"),
        )
        self.query_one("#sample", Static).update(sample_text(tail))
        self.query_one("#events", Static).update(event_lines(tail, 3))
        self.refresh_bindings()

    # --- commands

    def action_new(self) -> None:
        """Start a run."""
        self.post_message(self.NewRunWanted())

    def action_command(self, command: str) -> None:
        """Leave a command for the worker."""
        if self._tail is None:
            return
        try:
            self._tail.run.send(command)
            self.notify(f"Asked to {command}.", timeout=2)
        except GptError as error:
            self.notify(str(error), severity="warning", markup=False)

    def action_pause(self) -> None:
        """Pause, or go on."""
        self.action_command("resume" if self._tail and self._tail.status.state == "paused" else "pause")

    def action_stop(self) -> None:
        """Save and stop."""
        self.action_command("stop")

    def action_resume(self) -> None:
        """Start a stopped, failed or lost run again, from its last checkpoint."""
        if self._tail is None:
            return
        try:
            self._tail.run.launch()
        except GptError as error:
            self.notify(str(error), severity="warning", markup=False)

    def action_edit(self) -> None:
        """Change a setting of the running run."""

        def send(change: tuple[str, str] | None) -> None:
            if change and self._tail:
                try:
                    self._tail.run.send("set", **{change[0]: change[1]})
                except GptError as error:
                    self.notify(str(error), severity="warning", markup=False)

        if self._tail:
            self.app.push_screen(SettingPrompt(), send)

    def action_talk(self) -> None:
        """Open the newest checkpoint on the completion page."""
        if self._tail and self._tail.checkpoints:
            self.post_message(self.TalkWanted(f"{self._tail.run.name}:last"))
        else:
            self.notify("This run has no checkpoint yet; c asks it to save one.", severity="warning")

    def action_log(self) -> None:
        """Switch between a logarithmic and a linear scale."""
        self.query_one(CurveView).toggle_log()

    def action_other(self, by: int) -> None:
        """Show the next older or newer run."""
        runs = list_runs(self._runs)
        names = [run.name for run in runs]
        if self._tail and self._tail.run.name in names:
            place = names.index(self._tail.run.name) + by
            if 0 <= place < len(runs):
                self.show_run(runs[place])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        state = self._tail.status.state if self._tail else "none"
        alive = state in ("starting", "running", "paused")
        if action in ("pause", "stop", "command", "edit"):
            return alive
        if action == "resume":
            return state in ("stopped", "failed", "lost")
        if action in ("talk", "log", "other"):
            return state != "none"
        return True
