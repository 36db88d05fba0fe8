"""The app: three pages, one engine process, one place where a page's wishes are carried out. Never imports torch."""

import asyncio
import dataclasses
import functools
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from gpt_model.errors import GptError
from gpt_model.runs import Run
from gpt_tui import wire
from gpt_tui.checkpoint_names import list_checkpoints
from gpt_tui.clipboard import copy_text
from gpt_tui.completion import Completion
from gpt_tui.engine_client import EngineClient, EngineDied
from gpt_tui.history import History
from gpt_tui.locations import Locations
from gpt_tui.screens.checkpoint_picker import CheckpointPicker
from gpt_tui.screens.complete import CompleteScreen
from gpt_tui.screens.complete_messages import (
    CheckpointWanted,
    CompletionEnded,
    RestartRequested,
    Sent,
    SettingChosen,
)
from gpt_tui.screens.help import Help
from gpt_tui.screens.new_run import NewRun
from gpt_tui.screens.runs import RunsScreen
from gpt_tui.screens.train import TrainScreen
from gpt_tui.settings import LoadedSettings, load_settings, save_setting
from samplers import PRESETS, Chain, ChainError


class GptTui(App[int]):
    """Hosts the pages; owns the engine and what is kept on disk."""

    TITLE = "gpt-tui"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Keys", id="app.help", priority=True),
        Binding("f2,alt+1", "page('complete')", "Complete", show=False, id="app.complete", priority=True),
        Binding("f3,alt+2", "page('train')", "Train", show=False, id="app.train", priority=True),
        Binding("f4,alt+3", "page('runs')", "Runs", show=False, id="app.runs", priority=True),
        Binding("1", "page('complete')", "Complete", show=False),
        Binding("2", "page('train')", "Train", show=False),
        Binding("3", "page('runs')", "Runs", show=False),
        Binding("ctrl+p", "command_palette", "Commands", show=False, id="app.palette", priority=True),
        Binding("ctrl+c", "interrupt", "Stop, then quit", show=False, id="app.interrupt", priority=True),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True),
    ]

    def __init__(self, locations: Locations, loaded: LoadedSettings, prompt: str | None = None) -> None:
        super().__init__()
        self._locations = locations
        self._loaded = loaded
        self._settings = loaded.settings
        self._history = History(locations.state / "history.jsonl")
        self._checkpoint = self._settings.checkpoint
        self._interrupted = 0.0
        self._unsaved: dict[str, object] = {}
        self.engine = EngineClient(
            self._engine_spoke, locations.state / "engine.log", shlex.split(self._settings.engine)
        )
        self.complete_page = CompleteScreen(
            self._first_completion(), self._history.read(), self._copy, self._edit, prompt
        )
        self.train_page = TrainScreen(locations.runs, slow_line="SSH_CONNECTION" in os.environ)
        self.runs_page = RunsScreen(locations.runs)

    def get_default_screen(self) -> Screen[Any]:
        """Start on the completion page itself; a blank screen first would be a frame for nothing."""
        return self.complete_page

    async def on_mount(self) -> None:
        self.theme = self._settings.theme if self._settings.theme in self.available_themes else "textual-dark"
        self.theme_changed_signal.subscribe(self, lambda theme: self._keep("theme", theme.name))
        if self._settings.keymap:
            self.set_keymap(dict(self._settings.keymap))
        for problem in self._loaded.problems:
            self.notify(problem, title="Settings", severity="warning", markup=False, timeout=8)
        self.install_screen(self.train_page, "train")
        self.install_screen(self.runs_page, "runs")
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):  # leave the terminal as it was found
            asyncio.get_running_loop().add_signal_handler(number, self.exit, code)
        await self._start_engine()

    def exit(self, *arguments: Any, **options: Any) -> None:
        """Leave, by whatever way: what was still being written is kept first, while the page knows it."""
        if unfinished := self.complete_page.leave():
            self._keep_completion(unfinished)
        super().exit(*arguments, **options)

    async def on_unmount(self) -> None:
        self._save_settings()
        await self.engine.stop()

    # --- pages

    def action_page(self, page: str) -> None:
        """Go to a page. The completion page is the ground; the others lie on it one at a time."""
        if isinstance(self.screen, CompleteScreen | TrainScreen | RunsScreen):
            while len(self.screen_stack) > 1:
                self.pop_screen()
            if page != "complete":
                self.push_screen(page)

    def action_help(self) -> None:
        """Show every key."""
        if isinstance(self.screen, Help):
            return
        page = self.screen
        groups = [
            ("This page", _shown(page.BINDINGS)),
            ("Everywhere", _shown(self.BINDINGS)),
        ]
        focused = self.focused
        if focused is not None and focused.BINDINGS:
            groups.insert(0, ("Where the focus is", _shown(focused.BINDINGS)))
        self.push_screen(Help(groups))

    def action_interrupt(self) -> None:
        """Ctrl-C: stop what is being written; twice within two seconds, leave."""
        now = time.monotonic()
        if self.complete_page.writing:
            self.complete_page.action_stop()
        elif now - self._interrupted < 2.0:
            self.exit(130)
        else:
            self._interrupted = now
            self.notify("Ctrl-C again leaves. Training goes on without this window.", timeout=2)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Offer the app's and the page's actions in the command palette, beside Textual's own."""
        # Textual's own "Maximize" knows one widget a page, "Keys" is our F1.
        yield from (each for each in super().get_system_commands(screen) if each.title not in ("Maximize", "Keys"))
        by_action = {each.action: each for each in (*_shown(self.BINDINGS)[::-1], *_shown(screen.BINDINGS))}
        del by_action["command_palette"]
        for binding in by_action.values():
            about = f"{binding.tooltip or binding.description} ({binding.key})"
            yield SystemCommand(binding.description, about, lambda action=binding.action: self._act(action))
        if screen is self.complete_page:
            for name, chain in (PRESETS | dict(self._settings.presets)).items():
                take = functools.partial(self.complete_page.take_preset, name)
                yield SystemCommand(f"Preset {name}", chain or "the model's own distribution", take)

    async def _act(self, action: str) -> None:
        await self.run_action(action, default_namespace=self.screen)

    # --- the engine

    async def _start_engine(self) -> None:
        await self.engine.start()
        self._open_checkpoint(self._checkpoint)

    def _open_checkpoint(self, name: str) -> None:
        self._checkpoint = name
        self.complete_page.show_loading(name)
        self.engine.send(wire.Load(name, self._settings.device, self._settings.threads, dtype=self._settings.dtype))

    def _engine_spoke(self, event: wire.Event | EngineDied) -> None:
        self.complete_page.engine_event(event)

    @on(Sent)
    def _send(self, message: Sent) -> None:
        if isinstance(message.request, wire.Generate) and message.request.prompt:
            self._history.add(message.request.prompt)
        self.engine.send(message.request)

    @on(RestartRequested)
    async def _restart(self) -> None:
        await self._start_engine()

    @on(CheckpointWanted)
    def _choose_checkpoint(self, message: CheckpointWanted) -> None:
        def chosen(name: str | None) -> None:
            if name:
                self._open_checkpoint(name)

        if message.name:
            chosen(message.name)
        else:
            names = [(each.label, str(each.path)) for each in list_checkpoints(self._locations)]
            self.push_screen(CheckpointPicker(names), chosen)

    # --- runs

    @on(TrainScreen.NewRunWanted)
    @on(RunsScreen.NewRunWanted)
    def _new_run(self) -> None:
        def started(run: Run | None) -> None:
            if run is not None:
                self._watch(run)

        self.push_screen(NewRun(self._locations), started)

    @on(RunsScreen.WatchWanted)
    def _watch_run(self, message: RunsScreen.WatchWanted) -> None:
        self._watch(message.run)

    def _watch(self, run: Run) -> None:
        self.action_page("train")
        self.call_after_refresh(self.train_page.show_run, run)

    @on(TrainScreen.TalkWanted)
    @on(RunsScreen.TalkWanted)
    def _talk(self, message: TrainScreen.TalkWanted | RunsScreen.TalkWanted) -> None:
        self.action_page("complete")
        self._open_checkpoint(message.checkpoint)

    # --- what is kept

    @on(CompletionEnded)
    def _keep_completion(self, message: CompletionEnded) -> None:
        completion = message.completion
        last = completion.document.pieces[-1] if completion.document.pieces else None
        tokens = last.tokens if last else []
        record = {
            "time": time.time(),
            "checkpoint": message.checkpoint,
            "chain": str(completion.chain),
            "decoder": completion.decoder,
            "seed": completion.seed,
            "text": completion.document.text,
            "completion": last.whole_text if last else "",
            "token_ids": [token.id for token in tokens],
            "switches": [{"index": token.index, "chain": token.chain} for token in tokens if token.chain],
            "finished": asdict(last.finished) if last and last.finished else None,
        }
        try:
            self._locations.sessions.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._locations.sessions / f"{time.strftime('%Y-%m-%d')}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            self.notify(f"The session could not be kept: {error}.", severity="warning", markup=False)

    @on(SettingChosen)
    def _setting_chosen(self, message: SettingChosen) -> None:
        self._keep(message.name, message.value)
        if message.name == "dtype":
            self._settings = dataclasses.replace(self._settings, dtype=str(message.value))
            self._open_checkpoint(self._checkpoint)

    def _keep(self, name: str, value: object) -> None:
        """Save a setting, together with what else changes within a second: a key held down is one change."""
        if not self._unsaved:
            self.set_timer(1.0, self._save_settings)
        self._unsaved[name] = value

    def _save_settings(self) -> None:
        unsaved, self._unsaved = self._unsaved, {}
        for name, value in unsaved.items():
            try:
                if told := save_setting(self._locations, name, value):
                    self.notify(told, severity="warning", markup=False)
            except (GptError, OSError) as error:
                self.notify(f"The setting was not saved: {error}", severity="warning", markup=False)

    def _first_completion(self) -> Completion:
        settings = self._settings
        try:
            chain = settings.parsed_chain()
        except ChainError as error:
            self._loaded.problems.append(f"chain: {error} The empty chain is used.")
            chain = Chain()
        seed = settings.seed
        stop, decoder = tuple(settings.stop), settings.decoder
        return Completion(chain, settings.max_new_tokens, seed, stop, settings.presets, decoder)

    def _copy(self, text: str) -> str:
        return copy_text(text, self._locations.state / "last.txt", self.copy_to_clipboard)

    def _edit(self, text: str) -> str | None:
        """Let the person's own editor have the text; None when it gave nothing back."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        with tempfile.NamedTemporaryFile("w+", suffix=".txt", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            with self.suspend():
                code = subprocess.run([*shlex.split(editor), file.name], check=False).returncode
            self.refresh()
            edited = Path(file.name).read_text(encoding="utf-8", errors="replace")
        return edited.removesuffix("\n") if code == 0 else None


def run_app(locations: Locations, flags: dict[str, Any], prompt: str | None = None) -> int:
    """Run the app and return its exit code. `flags` are settings given on the command line."""
    loaded = load_settings(locations, os.environ, flags)
    for exported in ("COLUMNS", "LINES"):  # a shell's, from when it was started: the terminal itself knows its size
        os.environ.pop(exported, None)
    return GptTui(locations, loaded, prompt).run() or 0


def _shown(bindings: Iterable[BindingType]) -> list[Binding]:
    return [binding for binding in bindings if isinstance(binding, Binding) and binding.description]
