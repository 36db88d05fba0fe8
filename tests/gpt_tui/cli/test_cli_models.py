"""gpt-tui models and eval: the way in, the way out, and what a checkpoint makes of a text."""

import json
import math
from pathlib import Path

import pytest
from command_lines import Cli

from gpt_tui.locations import BUNDLED, Locations


def make_foreign(directory: Path, vocab_size: int) -> Path:
    """Save a random model without a tokenizer."""
    import torch

    from gpt_model.checkpoint import save_checkpoint
    from gpt_model.config import ModelConfig
    from gpt_model.model import GPT

    torch.manual_seed(2)
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=vocab_size))
    save_checkpoint(directory, model, None)
    return directory


def text_of(cli: Cli, checkpoint: str | Path) -> str:
    """Return what a checkpoint writes, greedily."""
    outcome = cli("complete", "-m", checkpoint, "-s", "greedy", "--seed", "1", "--max-new-tokens", "20", "The")
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_a_model_comes_in_by_name_goes_out_and_writes_the_same(cli: Cli, tiny_checkpoint: Path) -> None:
    imported = cli("models", "import", tiny_checkpoint, "mine")
    assert (imported.code, imported.out) == (0, "mine\n")
    assert "tokenizer bytes" in imported.err
    expected = text_of(cli, "mine")
    for arguments in (["out"], ["half", "--dtype", "float16"], ["weights.pth", "--format", "pth"], ["by-name.pth"]):
        exported = cli("models", "export", "mine", *arguments)
        assert (exported.code, exported.out) == (0, f"{arguments[0]}\n")
    assert text_of(cli, "./out") == expected
    assert text_of(cli, "weights.pth") == text_of(cli, "by-name.pth") == expected
    assert Path("half/model.safetensors").stat().st_size < 0.6 * Path("out/model.safetensors").stat().st_size
    assert cli("models", "import", "weights.pth", "again").code == 0
    assert text_of(cli, "again") == expected


def test_what_is_listed_and_shown(cli: Cli, tiny: str, place: Locations) -> None:
    told = json.loads(cli("models", "show", "tiny", "--json").out)
    expected = {"name": "tiny", "n_layer": 1, "n_embd": 16, "block_size": 64, "vocab_size": 257, "tokenizer": "bytes"}
    assert told == told | expected | {"path": str(place.models / "tiny"), "resumable": False, "error": None}
    assert [each for each in json.loads(cli("models", "list", "--json").out) if each["name"] != BUNDLED] == [told]
    assert "1×2×16" in cli("models", "list").out
    shown = dict(line.split(maxsplit=1) for line in cli("models", "show", "tiny").out.splitlines())
    assert (shown["parameters"], shown["resumable"]) == (f"{told['parameters']:,}", "no")


def test_a_damaged_model_is_listed_with_its_error(cli: Cli, tiny: str, place: Locations) -> None:
    (place.models / "tiny/config.json").write_text("{}")
    listed = cli("models", "list")
    assert listed.code == 0
    assert "describes no GPT-2" in listed.out
    assert cli("models", "show", "tiny").code == 3


def test_a_model_without_a_tokenizer_comes_in_with_a_warning(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("models", "import", make_foreign(tmp_path / "foreign", vocab_size=300), "foreign")
    assert (outcome.code, outcome.out) == (0, "foreign\n")
    assert "brings no tokenizer" in outcome.err
    refused = cli("complete", "-m", "foreign", "x")
    assert refused.code == 3
    assert "--tokenizer" in refused.err
    named = cli("complete", "-m", "foreign", "--tokenizer", "bytes", "--seed", "1", "--max-new-tokens", "3", "x")
    assert named.code == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a:b", "'a:b' cannot be a model's name"),
        (".hidden", "'.hidden' cannot be a model's name"),
        (BUNDLED, f"{BUNDLED} is taken"),
        ("tiny", "There is a model 'tiny' already"),
        ("story", "There is a run 'story'"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    cli: Cli, tiny: str, place: Locations, tiny_checkpoint: Path, name: str, sentence: str
) -> None:
    (place.runs / "story").mkdir(parents=True)
    outcome = cli("models", "import", tiny_checkpoint, name)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert [path.name for path in place.models.iterdir()] == ["tiny"]


def test_what_is_no_checkpoint_or_is_in_the_way_is_told(cli: Cli, tiny: str) -> None:
    Path("code.pth").write_bytes(b"\x80\x04cos\nsystem\n.")
    Path("taken").write_text("something")
    for arguments in (
        ["import", "missing", "mine"],
        ["import", "code.pth", "mine"],
        ["export", "tiny", "taken"],
        ["export", "tiny", "taken", "--format", "pth"],
        ["show", "tinny"],
    ):
        outcome = cli("models", *arguments)
        assert outcome.code == 3, arguments
        assert outcome.err.startswith("gpt-tui: ")
    assert cli("models", "export", "tiny", "x.pth", "--format", "pth", "--dtype", "float16").code == 2


def test_eval_tells_loss_perplexity_bits_and_tokens(cli: Cli, tiny: str) -> None:
    Path("a.txt").write_text("To be, or not to be: ")
    Path("b.txt").write_text("that is the question.\n" * 9)
    Path("both.txt").write_text(Path("a.txt").read_text() + Path("b.txt").read_text())
    told = json.loads(cli("eval", "tiny", "a.txt", "b.txt", "--json").out)
    assert told["tokens"] == Path("both.txt").stat().st_size - 1
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert told["bits_per_byte"] == pytest.approx(told["loss"] / math.log(2))  # a token is a byte here
    assert told == json.loads(cli("eval", "tiny", "both.txt", "--json").out)
    lines = cli("eval", "tiny", "both.txt").out.splitlines()
    assert lines[0] == f"loss           {told['loss']:.4f} nats a token"
    assert lines[3].split() == ["tokens", str(told["tokens"])]


@pytest.mark.parametrize(
    ("checkpoint", "file", "code", "sentence"),
    [
        ("tinny", "text.txt", 3, "Did you mean 'tiny'?"),
        ("tiny", "missing.txt", 2, "missing.txt"),
        ("tiny", "binary.txt", 2, "binary.txt is not a text file"),
        ("tiny", "short.txt", 2, "at least two are needed"),
    ],
)
def test_what_cannot_be_scored_is_told(
    cli: Cli, tiny: str, checkpoint: str, file: str, code: int, sentence: str
) -> None:
    Path("text.txt").write_text("some text")
    Path("binary.txt").write_bytes(b"a\x00b")
    Path("short.txt").write_text("a")
    outcome = cli("eval", checkpoint, file)
    assert outcome.code == code
    assert sentence in outcome.err
