"""gpt-tui train --init and modern models: where a run came from, what its model is, and where that may go."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import TINY, Cli

from gpt_tui.locations import Locations


@pytest.fixture
def story(place: Locations) -> Path:
    """A text in the working directory."""
    file = Path("story.txt")
    file.write_text("the king sings of night and sea\n" * 99)
    return file


def train(cli: Cli, *arguments: str | Path, **settings: object) -> str:
    """Train a tiny run to its end; return what was told."""
    outcome = cli("train", *arguments, *(f"--set={name}={value}" for name, value in (TINY | settings).items()))
    assert outcome.code == 0, outcome.err
    return outcome.err


def fields(text: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def test_a_run_goes_on_from_anothers_checkpoint_and_from_a_file_and_tells_its_parent(
    cli: Cli, story: Path, place: Locations
) -> None:
    train(cli, story, "--tokenizer", "bytes", "--name", "first", learning_rate=0.01)
    told = train(cli, story, "--init", "first:10", "--name", "second", lora_rank=2)
    assert "in adapters of rank 2, which alone are trained" in told
    shown: dict[str, Any] = json.loads(cli("runs", "show", "second", "--json").out)
    assert shown["config"]["parent"] == "first:10"
    assert shown["config"]["train"]["lora_rank"] == 2
    step = place.runs / "first" / "checkpoints" / "step-00000010"
    line = next(line for line in cli("runs", "show", "second").out.splitlines() if line.startswith("starts from"))
    assert line.split(maxsplit=2)[2] == f"first:10 ({step}), with adapters of rank 2"
    losses = [json.loads(line) for line in (place.runs / "second" / "metrics.jsonl").read_text().splitlines()]
    before = next(record for record in losses if "val_loss" in record)
    of_first = [json.loads(line) for line in (place.runs / "first" / "metrics.jsonl").read_text().splitlines()]
    theirs = next(record for record in of_first if "val_loss" in record and record["step"] == 10)
    assert before["step"] == 0
    assert before["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-5)  # it begins where the other was

    assert cli("models", "export", "second", "weights.pth", "--format", "pth").code == 0
    train(cli, story, "--init", "weights.pth", "--name", "third", max_steps=1)
    assert json.loads(cli("runs", "show", "third", "--json").out)["config"]["parent"] is None
    assert json.loads(cli("models", "show", "weights.pth", "--json").out)["n_embd"] == 16


def test_a_modern_model_is_marked_everywhere_and_leaves_only_in_its_own_format(cli: Cli, story: Path) -> None:
    train(cli, story, "--tokenizer", "bytes", "--name", "new", arch="modern", z_loss=1e-4)
    marked = "modern (not GPT-2)"
    model = next(line for line in cli("runs", "show", "new").out.splitlines() if line.startswith("model"))
    assert model.endswith(marked)
    assert fields(cli("models", "show", "new").out)["arch"] == marked
    assert "1×1×16 modern" in cli("models", "list").out
    written = cli("complete", "-m", "new", "--seed", "1", "--max-new-tokens", "5", "the king")
    assert written.code == 0
    for form, whose in (("huggingface", "transformers"), ("pth", "nanoGPT")):
        refused = cli("models", "export", "new", "out", "--format", form)
        assert refused.code == 3
        assert f"a modern model, not a GPT-2, so {whose} cannot open it" in refused.err
        assert "--format gpt-tui" in refused.err
        assert not Path("out").exists()
    assert cli("models", "export", "new", "out", "--format", "gpt-tui").code == 0
    again = cli("complete", "-m", "./out", "--seed", "1", "--max-new-tokens", "5", "the king")
    assert again.out == written.out
    assert cli("models", "import", "out", "kept").code == 0
    assert fields(cli("models", "show", "kept").out)["arch"] == marked


def test_a_gpt2_leaves_for_gpt_tui_as_it_leaves_for_transformers(cli: Cli, tiny: str) -> None:
    for form in ("huggingface", "gpt-tui"):
        assert cli("models", "export", tiny, form, "--format", form).code == 0
    for file in Path("huggingface").iterdir():
        assert (Path("gpt-tui") / file.name).read_bytes() == file.read_bytes()
