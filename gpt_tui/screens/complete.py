"""The completion page: one document that person and model write in turn, and the chain that draws. Knows no app."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer, Static

from gpt_model.errors import GenerationError, GptError
from gpt_model.token_record import Token
from gpt_tui import wire
from gpt_tui.completion import Completion
from gpt_tui.document import Document
from gpt_tui.engine_client import EngineDied
from gpt_tui.screens.complete_messages import (
    CheckpointWanted,
    CompletionEnded,
    RestartRequested,
    Sent,
    SettingChosen,
)
from gpt_tui.screens.preset_picker import PresetPicker
from gpt_tui.screens.stage_picker import StagePicker
from gpt_tui.settings import write_text_atomically
from gpt_tui.slash_commands import SlashCommand, parse_command
from gpt_tui.widgets.chain_panel import ChainPanel
from gpt_tui.widgets.desk import Desk
from gpt_tui.widgets.header_line import HeaderLine
from gpt_tui.widgets.prompt_input import PromptInput
from gpt_tui.widgets.status_line import StatusLine
from samplers import Chain, ChainError, Stage

_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class CompleteScreen(Screen[None]):
    """Prompt, text, chain and candidates; everything by keyboard, typing never blocked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="complete.stop"),
        Binding("ctrl+r", "regenerate(False)", "Again", id="complete.regenerate", tooltip="Regenerate, new seed"),
        Binding("alt+r", "regenerate(True)", "Again, same seed", show=False, id="complete.repeat"),
        Binding("ctrl+n", "new", "New", id="complete.new"),
        Binding("alt+left", "version(-1)", "Older version", show=False, id="complete.older"),
        Binding("alt+right", "version(1)", "Newer version", show=False, id="complete.newer"),
        Binding("ctrl+o", "open", "Model", id="complete.open"),
        Binding("alt+h", "heat", "Heat", show=False, id="complete.heat", tooltip="Colour the tokens by probability …"),
        Binding("alt+p", "panel", "Panel", show=False, id="complete.panel", tooltip="Show or hide the panel"),
        Binding("alt+y", "copy", "Copy", show=False, id="complete.copy"),
        Binding("f5", "restart", "Restart engine", id="complete.restart"),
    ]

    def __init__(
        self,
        completion: Completion,
        history: list[str],
        copy: Callable[[str], str],
        edit: Callable[[str], str | None],
        prompt: str | None = None,
    ) -> None:
        super().__init__()
        self._completion = completion
        self._history = history
        self._copy = copy
        self._edit = edit
        self._prompt = prompt or ""
        self._loaded: wire.CheckpointLoaded | None = None
        self._told = ""  # what the engine does meanwhile
        self._awaited = ""  # the checkpoint that is on its way
        self._dead = False
        self._composed = False
        self._offered = (False, False)
        self._early: list[wire.Event | EngineDied] = []
        self._slow_line = "SSH_CONNECTION" in os.environ

    def compose(self) -> ComposeResult:
        yield HeaderLine("Complete")
        yield Desk()
        with Horizontal(id="prompt"):
            yield Static("❯", id="glyph")
            yield PromptInput()
        yield StatusLine()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self._composed = True
        self._show_chain()
        self.query_one(PromptInput).set_history(self._history)
        self.prefill(self._prompt)
        self.query_one(PromptInput).focus()
        # While tokens come, numbers beside the text are news a few times a second, on a slow line once.
        self.set_interval(1.0 if self._slow_line else 0.25, self._refresh_numbers)
        self._show_document()
        early, self._early = self._early, []
        for event in early:
            self.engine_event(event)

    def on_resize(self) -> None:
        self.set_class(self.size.width < 72, "-narrow")
        self.set_class(72 <= self.size.width < 100, "-medium")

    @property
    def writing(self) -> bool:
        """Whether a completion is streaming."""
        return self._completion.streaming

    @property
    def document(self) -> Document:
        """The document on screen."""
        return self._completion.document

    def prefill(self, text: str) -> None:
        """Put a text into the prompt, as a pipe into the program does."""
        prompt = self.query_one(PromptInput)
        prompt.text = text
        prompt.move_cursor(prompt.document.end)

    # --- what the engine says

    def engine_event(self, event: wire.Event | EngineDied) -> None:
        """Take in an event of the engine's; one that comes before the page is there waits for it."""
        if not self._composed:
            self._early.append(event)
            return
        completion = self._completion
        if isinstance(event, wire.TokenArrived):
            if completion.accepts(event.request):
                self._show_token(event.token)
            return  # the numbers beside the text follow a few times a second
        if isinstance(event, wire.PromptRead) and completion.accepts(event.request):
            completion.prompt_read(event.tokens)
        elif isinstance(event, wire.GenerationFinished) and completion.accepts(event.request):
            completion.finish(event.finished)
            self.query_one(Desk).add_rest(event.finished.text)
            self._ended()
        elif isinstance(event, wire.CheckpointLoaded):
            if self._loaded and (self._loaded.path, self._loaded.tokenizer) != (event.path, event.tokenizer):
                completion.document.ids = None  # the text is another model's now; its ids mean nothing to this one
            self._loaded, self._awaited, self._told, self._dead = event, "", "", False
            if event.note:
                self.notify(event.note, severity="warning", markup=False, timeout=10)
        elif isinstance(event, wire.EngineTold):
            self._told = event.message
        elif isinstance(event, wire.EngineStarted):
            self._dead = False
        elif isinstance(event, wire.EngineFailed):
            self.notify(event.message, severity="error", markup=False, timeout=10)
            if completion.accepts(event.request):
                self._cut_off()
            elif event.request is None:
                self._awaited = ""  # what was open before still is
        elif isinstance(event, EngineDied):
            self._dead, self._loaded, self._awaited = True, None, ""
            self._cut_off()
            self.notify(
                f"{event.message} Your text is safe; F5 starts the engine again.",
                title="The engine is gone", severity="error", markup=False, timeout=20,
            )  # fmt: skip
        self._show_state()

    def show_loading(self, name: str) -> None:
        """Say that a checkpoint is on its way."""
        self._awaited, self._told = name or "the newest checkpoint", ""
        self._show_state()

    # --- what the person does

    @on(PromptInput.Submitted)
    def _submitted(self, event: PromptInput.Submitted) -> None:
        try:
            command = parse_command(event.text)
            if command:
                self._carry_out(command)
                return
            if self._completion.streaming:
                raise GenerationError("It is still writing: Esc stops it.")
            if self._loaded is None or self._awaited:
                raise GenerationError("No model is ready yet; your prompt is kept.")
        except (GptError, ChainError, OSError) as error:
            self.notify(str(error), severity="warning", markup=False)
            self.prefill(event.text)
            return
        self._begin(self._completion.start(event.text[1:] if event.text.startswith("//") else event.text))

    @on(ChainPanel.ChainChanged)
    def _chain_changed(self, event: ChainPanel.ChainChanged) -> None:
        self._use_chain(event.chain)
        self.post_message(SettingChosen("chain", str(event.chain)))

    @on(ChainPanel.PresetRequested)
    def _preset_wanted(self) -> None:
        def take(name: str | None) -> None:
            if name is not None:
                self.take_preset(name)

        self.app.push_screen(PresetPicker(self._completion.presets), take)

    def take_preset(self, name: str) -> None:
        """Take a preset's chain, from the next token on."""
        try:
            self._carry_out(SlashCommand("preset", name))
        except ChainError as error:
            self.notify(str(error), severity="warning", markup=False)

    @on(ChainPanel.StageAddRequested)
    def _stage_wanted(self) -> None:
        def add(stage: Stage | None) -> None:
            if stage is not None:
                self._use_chain(self._completion.chain.added(stage))
                self.post_message(SettingChosen("chain", str(self._completion.chain)))

        self.app.push_screen(StagePicker(), add)

    @on(PromptInput.EditorRequested)
    def _editor_requested(self, event: PromptInput.EditorRequested) -> None:
        if (edited := self._edit(event.text)) is not None:
            self.prefill(edited)

    def action_stop(self) -> None:
        """Stop at the next token; what came stays."""
        if self._completion.streaming:
            self.post_message(Sent(wire.Cancel()))

    def action_regenerate(self, same_seed: bool) -> None:
        """Write the last completion again."""
        if self._completion.streaming or self._loaded is None or self._awaited:
            self.notify("Not now: stop it with Esc, or wait for the model.", severity="warning")
        elif request := self._completion.regenerate(same_seed):
            self._begin(request)
        else:
            self.notify("There is no completion yet to write again.", severity="warning")

    def action_new(self) -> None:
        """Begin an empty document; the old one is one version back."""
        if not self._completion.streaming and self._completion.document.pieces:
            self._completion.timeline.branch(Document())
            self._show_document()

    def action_version(self, by: int) -> None:
        """Go to the version before or after."""
        timeline = self._completion.timeline
        if not self._completion.streaming and (timeline.back() if by < 0 else timeline.forward()):
            self._show_document()

    def action_open(self) -> None:
        """Choose a checkpoint."""
        self.post_message(CheckpointWanted())

    def action_heat(self) -> None:
        """Go to the next way of colouring the tokens."""
        self.notify(f"Heat: {self.query_one(Desk).next_heat()}", timeout=1.5)

    def action_panel(self) -> None:
        """Show or hide the side panel."""
        self.toggle_class("-hidden")

    def action_copy(self) -> None:
        """Copy the document."""
        self.notify(self._copy(self._completion.document.text), markup=False)

    def action_restart(self) -> None:
        """Start the engine again."""
        self.post_message(RestartRequested())

    def _carry_out(self, command: SlashCommand) -> None:
        pages = {"new": self.action_new, "copy": self.action_copy, "quit": self.app.exit}
        if command.name in pages:
            pages[command.name]()
        elif command.name == "help":
            self.call_later(self.app.run_action, "help")
        elif command.name == "open":
            self.post_message(CheckpointWanted(command.argument))
        elif command.name == "save":
            write_text_atomically(Path(command.argument).expanduser(), self._completion.document.text)
            self.notify(f"Saved to {command.argument}.", markup=False)
        elif command == SlashCommand("preset", ""):
            self._preset_wanted()
        else:
            before, decoder = self._completion.chain, self._completion.decoder
            for name, value in self._completion.carry_out(command).items():
                self.post_message(SettingChosen(name, value))
            if self._completion.chain != before:
                self._use_chain(self._completion.chain)
            if self._completion.decoder != decoder and self._completion.streaming:
                self.notify("The decoder drives the next completion; this one goes on as it began.", timeout=4)
            self._show_chain()
        self._show_state()

    # --- showing

    def _begin(self, request: wire.Generate) -> None:
        self._show_document()
        self.post_message(Sent(request))
        self._show_state()

    def _use_chain(self, chain: Chain) -> None:
        self._completion.chain = chain
        self._show_chain()
        if self._completion.streaming:
            self.post_message(Sent(wire.SwitchChain(str(chain))))

    def _show_chain(self) -> None:
        completion = self._completion
        self.query_one(Desk).show_chain(completion.chain, completion.preset, completion.decoder)

    def leave(self) -> CompletionEnded | None:
        """Take in no more events; return what was still being written, so that it can be kept."""
        self._composed = False  # what comes now is for a page that is not there any more
        if not self._completion.streaming:
            return None
        self._completion.finish(None)
        return CompletionEnded(self._completion, self._loaded.label if self._loaded else "")

    def _cut_off(self) -> None:
        if self._completion.streaming:
            self._completion.finish(None)
            self._ended()

    def _ended(self) -> None:
        self.query_one(Desk).show_newest()
        label = self._loaded.label if self._loaded else ""
        self.post_message(CompletionEnded(self._completion, label))

    def _show_document(self) -> None:
        self.query_one(Desk).show_document(self._completion.document)
        self._show_state()

    def _show_token(self, token: Token) -> None:
        self._completion.token_arrived(token)
        self.query_one(Desk).add_token(token)
        for fault in token.faults:
            self.notify(fault, title="A stage failed", severity="warning", markup=False)

    def _refresh_numbers(self) -> None:
        if self._completion.streaming:
            self._show_state()
            self.query_one(Desk).show_newest()

    def _show_state(self) -> None:
        if not self._composed:
            return
        completion, loaded = self._completion, self._loaded
        header = self.query_one(HeaderLine)
        if loaded:
            header.left = f"{loaded.label}  {loaded.device} {_SHORT.get(loaded.dtype, loaded.dtype)}"
        if self._dead:
            header.state, header.mood = "engine gone · F5 restarts it", "alarm"
        elif completion.streaming:
            header.state, header.mood = "writing", "live"
        else:
            waiting = self._told or f"loading {self._awaited}"
            state = waiting if self._awaited else "ready" if loaded else "no model · ^O opens one"
            header.state, header.mood = state, "live" if loaded and not self._awaited else "state"
        self.query_one(StatusLine).set_segments(*completion.numbers(loaded.block_size if loaded else None))
        if (keys := (completion.streaming, self._dead)) != self._offered:
            self._offered = keys
            self.refresh_bindings()  # rebuilds the footer, so only when other keys do something

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action == "stop":
            return self._completion.streaming
        if action == "restart":
            return self._dead
        return True
