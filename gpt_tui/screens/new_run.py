"""NewRun: the form that starts a run. Shows what the run will be before it is started. Knows no app and no torch."""

import shlex
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from gpt_model.errors import GptError
from gpt_model.presets import PRESETS
from gpt_model.runs import Run
from gpt_tui.locations import Locations
from gpt_tui.new_run import RunPlan, check_texts, plan_run
from gpt_tui.widgets.path_suggester import PathSuggester
from samplers import ChainError

FIELDS = (
    ("files", "text files", "paths, parted by spaces; empty: the documentation that comes with Python"),
    ("name", "name", "empty: named after the text"),
    ("preset", "preset", f"{' · '.join(PRESETS)}; empty: what fits this machine"),
    ("tokenizer", "tokenizer", "gpt2 · bytes · bpe:N; empty: the preset's"),
    ("target", "target loss", "nats a token; empty: train all steps"),
    ("init", "start from", "a checkpoint, for fine-tuning; empty: random weights"),
    ("set", "set", "more: n_layer=4 max_steps=2000 learning_rate=1e-3 …"),
)


class NewRun(ModalScreen[Run | None]):
    """Describe a run; the lines below the fields say what it will be, as one types."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("ctrl+j,f10", "start", "Start"),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]
    DEFAULT_CSS = """
    NewRun {
        .row { height: 1; }
        .row Label { width: 13; color: $text-muted; }
        .row Input { width: 1fr; }
        #plan { margin-top: 1; height: auto; min-height: 3; }
        #plan.-problem { color: $warning; }
    }
    """

    def __init__(self, locations: Locations) -> None:
        super().__init__()
        self._locations = locations

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialogue", can_focus=False):
            yield Label("Start a run", classes="title")
            for name, label, placeholder in FIELDS:
                with Horizontal(classes="row"):
                    yield Label(label)
                    suggester = PathSuggester() if name == "files" else None
                    yield Input(placeholder=placeholder, id=name, compact=True, suggester=suggester)
            yield Static(id="plan", markup=False)
            yield Label(
                "Enter starts it · ↑↓ between the fields · → takes a suggested path · Esc cancels", classes="hint"
            )

    def on_mount(self) -> None:
        self.query_one("#files").focus()
        self._describe()

    @on(Input.Changed)
    def _describe(self) -> None:
        plan = self.query_one("#plan", Static)
        try:
            planned = self._plan()
            model = planned.config.model
            about = (
                f"{model.n_layer} layers × {model.n_head} heads × {model.n_embd} wide, context {model.block_size}, "
                f"{planned.config.tokenizer}, {model.parameter_count / 1e6:.1f} M parameters"
            )
            plan.update("\n".join([about, *planned.notes]))
            plan.set_class(False, "-problem")
        except (GptError, ChainError) as error:
            plan.update(str(error))
            plan.set_class(True, "-problem")

    @on(Input.Submitted)
    def action_start(self) -> None:
        """Create the run and start its worker."""
        try:
            config = self._plan().config
            check_texts(config)
            run = Run.create(self._locations.runs, config, self._value("name") or None)
            run.launch()
        except (GptError, ChainError) as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self.dismiss(run)

    def _plan(self) -> RunPlan:
        sets = dict(part.partition("=")[::2] for part in self._value("set").split())
        return plan_run(
            files=split_paths(self._value("files")),
            preset=self._value("preset") or None,
            tokenizer=self._value("tokenizer") or None,
            sets=sets,
            target_loss=self._value("target") or None,
            init=self._value("init") or None,
            locations=self._locations,
        )

    def _value(self, field: str) -> str:
        return self.query_one(f"#{field}", Input).value.strip()


def split_paths(text: str) -> list[str]:
    """Return the paths of a line, quoted where they hold spaces; an unfinished quote is taken as it stands."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
