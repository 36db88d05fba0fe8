"""What a run says of itself, as lines of text: its shape and losses, its latest sample, its latest events."""

import time

from rich.text import Text

from gpt_model.config import ModelConfig
from gpt_tui.run_tail import RunTail
from gpt_tui.widgets.visible_text import picture


def describe_run(tail: RunTail) -> Text:
    """Return one line: the run, the model, the losses."""
    config, status = tail.run.config, tail.status
    text = Text.assemble(
        (config.preset or "model", "bold"), f" {shape(config.model)}", no_wrap=True, overflow="ellipsis"
    )
    text.append(f"   train {_loss(status.train_loss)}  val {_loss(status.val_loss)}")
    if status.best_val_loss is not None:
        text.append(f" (best {status.best_val_loss:.3f} @{status.best_step:,})")
    if status.state in ("failed", "lost", "stopped") and status.message:
        text.append(f"   {status.message}", "bold")
    elif status.phase not in ("", "training"):
        text.append(f"   {status.phase}", "dim")
    return text


def shape(model: ModelConfig) -> str:
    """Return layers × heads × width."""
    return f"{model.n_layer}×{model.n_head}×{model.n_embd}"


def sample_text(tail: RunTail) -> Text:
    """Return the newest sample, its prompt dimmed."""
    if not tail.samples:
        return Text("samples: what the model writes will stand here", "dim")
    sample = tail.samples[-1]
    text = Text.assemble((f"step {sample['step']:,}  ", "bold"))
    text.append(visible(sample["prompt"]), "dim")
    text.append(visible(sample["text"]))
    return text


def event_lines(tail: RunTail, count: int) -> Text:
    """Return the newest events, newest first, a line each."""
    lines = []
    for event in reversed(tail.events[-count:]):
        clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        lines.append(Text(f"{clock}  {event['step']:>7,}  {visible(event['message'])}"))
    return Text("\n").join(lines) if lines else Text("events will stand here")


def visible(text: str) -> str:
    """Return a model's text with control characters as pictures, so that it cannot command the terminal."""
    return "".join(each if each == "\n" or (shown := picture(each)) is None else shown for each in text)


def _loss(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "–"
