"""From what a person says to a run's configuration."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt_model.config import ModelConfig, RunConfig
from gpt_model.errors import CheckpointError, ConfigError, DataError, TokenizerError
from gpt_model.runs import Run
from gpt_tui import new_run
from gpt_tui.locations import Locations, find_locations
from gpt_tui.new_run import RunPlan, check_texts, plan_run


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locations:
    """A home and a working directory with one text in it; no GPU."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(new_run, "_has_gpu", lambda: False)
    Path("story.txt").write_text("Once upon a time.\n" * 50)
    return find_locations({"GPT_TUI_HOME": str(tmp_path / "home")})


def plan(places: Locations, **said: Any) -> RunPlan:
    nothing: dict[str, Any] = {
        "files": ["story.txt"], "preset": None, "tokenizer": None, "sets": {}, "target_loss": None, "init": None,
    }  # fmt: skip
    return plan_run(**nothing | said, locations=places)


def test_the_default_fits_the_machine_and_a_note_says_which_and_how_long(
    places: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = plan(places)
    assert on_cpu.config.preset == "gpt-micro"
    monkeypatch.setattr(new_run, "_has_gpu", lambda: True)
    on_gpu = plan(places)
    assert on_gpu.config.preset == "gpt2"
    for planned, name, where in ((on_cpu, "gpt-micro", "CPU"), (on_gpu, "gpt2", "GPU")):
        told = " ".join(planned.notes)
        assert name in told
        assert where in told
        assert "an estimate" in told


def test_a_gpu_that_was_declined_is_not_reckoned_with(places: Locations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_run, "_has_gpu", lambda: True)
    assert "CPU" in " ".join(plan(places, sets={"device": "cpu"}).notes)


@pytest.mark.parametrize(
    ("preset", "sets", "least", "most"),
    [("gpt-micro", {}, 1.0, 3.0), ("gpt2", {"max_steps": "100"}, 20.0, 40.0)],
)
def test_the_estimate_is_near_what_was_measured_on_two_cores(
    places: Locations, preset: str, sets: dict[str, str], least: float, most: float
) -> None:
    # 2,000 steps of gpt-micro took 2.2 minutes there, a step of gpt2 15 to 19 seconds.
    note = next(note for note in plan(places, preset=preset, sets={**sets, "threads": "2"}).notes if "About" in note)
    number, unit = note.split()[1:3]
    assert unit == "minutes"
    assert least <= float(number) <= most


def test_files_are_made_absolute(places: Locations) -> None:
    assert plan(places).config.files == (str(Path("story.txt").absolute()),)


def test_without_a_file_it_is_pythons_own_documentation(places: Locations) -> None:
    planned = plan(places, files=[])
    assert planned.config.files == ()
    assert "documentation that comes with Python" in " ".join(planned.notes)


@pytest.mark.parametrize("file", ["missing.txt", "empty.txt", "*.md", "~nobody-of-that-name/x", "a" * 5000])
def test_a_text_that_is_not_there_is_told(places: Locations, file: str) -> None:
    Path("empty.txt").touch()
    with pytest.raises(DataError):
        plan(places, files=["story.txt", file])


def test_a_binary_text_is_told_before_the_run_is_made(places: Locations) -> None:
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    planned = plan(places, files=["story.txt", "picture.png"])
    with pytest.raises(DataError, match=r"picture\.png is not a text file"):
        check_texts(planned.config)
    check_texts(plan(places).config)


def test_a_name_that_no_configuration_can_hold_is_refused(places: Locations, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"nam\xff.txt")
    try:
        file.write_text("a text")
    except OSError:
        pytest.skip("this disk has no such names")
    with pytest.raises(DataError, match=r"nam\ufffd\.txt is not UTF-8.*Rename it"):
        plan(places, files=[file])


def test_the_vocabulary_follows_the_tokenizer(places: Locations) -> None:
    assert plan(places).config.model.vocab_size == 257
    for tokenizer, size in (("bpe:512", 512), ("gpt2", 50257), ("bytes", 257)):
        config = plan(places, preset="gpt-mini", tokenizer=tokenizer).config
        assert (config.tokenizer, config.model.vocab_size) == (tokenizer, size)
    with pytest.raises(TokenizerError, match="bpe:N"):
        plan(places, tokenizer="words")
    with pytest.raises(ConfigError, match="--tokenizer"):
        plan(places, sets={"vocab_size": "300"})


def test_sets_take_the_glossarys_names(places: Locations) -> None:
    sets = {"n_layer": "2", "n_embd": "64", "block_size": "32", "max_steps": "2e3", "learning_rate": "1e-3"}
    config = plan(places, sets=sets).config
    assert (config.model.n_layer, config.model.n_embd, config.model.block_size) == (2, 64, 32)
    assert (config.train.max_steps, config.train.learning_rate) == (2000, 1e-3)
    with pytest.raises(ConfigError, match="Did you mean 'n_layer'"):
        plan(places, sets={"n_layers": "2"})
    with pytest.raises(ConfigError, match="multiple of n_head"):
        plan(places, sets={"n_embd": "7"})


def test_an_unknown_preset_is_told_with_the_nearest(places: Locations) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gpt2-medium'"):
        plan(places, preset="gpt2-medum")


def test_the_training_sequence_follows_a_smaller_block(places: Locations) -> None:
    assert plan(places, preset="gpt2").config.train.sequence_length == 128
    assert plan(places, preset="gpt2", sets={"block_size": "128"}).config.train.sequence_length == 128
    assert plan(places, preset="gpt2", sets={"block_size": "64"}).config.train.sequence_length is None
    with pytest.raises(ConfigError, match=r"sequence_length = 100: .*64 positions"):
        plan(places, preset="gpt2", sets={"block_size": "64", "sequence_length": "100"})


@pytest.mark.parametrize("target", [1.5, "1.5"])
def test_a_target_loss(places: Locations, target: float | str) -> None:
    assert plan(places, target_loss=target).config.train.target_loss == 1.5
    assert plan(places).config.train.target_loss is None


def test_a_wrong_target_loss_is_refused(places: Locations) -> None:
    with pytest.raises(ConfigError, match="target_loss = low: must be a number"):
        plan(places, target_loss="low")
    with pytest.raises(ConfigError, match="finite"):
        plan(places, target_loss="nan")


@pytest.fixture
def origin(places: Locations) -> Path:
    """A checkpoint's config.json, which is all that a plan reads of it."""
    path = places.models / "origin"
    path.mkdir(parents=True)
    shape = {"n_layer": 3, "n_head": 2, "n_embd": 48, "n_positions": 40, "vocab_size": 257, "n_inner": None}
    (path / "config.json").write_text(json.dumps(shape))
    return path


def test_a_start_from_a_checkpoint_takes_its_shape_and_tokenizer(places: Locations, origin: Path) -> None:
    config = plan(places, init="origin", sets={"max_steps": "5", "dropout": "0.1"}).config
    model = config.model
    assert (model.n_layer, model.n_head, model.n_embd, model.block_size, model.vocab_size) == (3, 2, 48, 40, 257)
    assert (config.init, config.tokenizer, config.preset) == (str(origin), "checkpoint", None)
    assert (config.train.max_steps, model.dropout) == (5, 0.1)


def test_a_start_from_a_checkpoint_refuses_another_shape(places: Locations, origin: Path) -> None:
    assert plan(places, init="origin", sets={"n_layer": "3"}).config.model.n_layer == 3
    with pytest.raises(ConfigError, match="n_layer is fixed by the checkpoint 'origin'"):
        plan(places, init="origin", sets={"n_layer": "4"})
    with pytest.raises(ConfigError, match="tokenizer is fixed"):
        plan(places, init="origin", tokenizer="gpt2")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"n_layer": 1, "n_head": 2, "n_embd": 3}', None])
def test_a_start_from_what_is_no_checkpoint_is_told(places: Locations, origin: Path, content: str | None) -> None:
    if content is None:
        (origin / "config.json").unlink()
    else:
        (origin / "config.json").write_text(content)
    with pytest.raises(CheckpointError):
        plan(places, init=str(origin))
    with pytest.raises(CheckpointError, match="no checkpoint 'orogin'"):
        plan(places, init="orogin")


def test_a_start_from_a_checkpoint_without_tokenizer_needs_one_named(places: Locations, origin: Path) -> None:
    shape = json.loads((origin / "config.json").read_text()) | {"vocab_size": 1000}
    (origin / "config.json").write_text(json.dumps(shape))
    with pytest.raises(ConfigError, match="name one with --tokenizer"):
        plan(places, init="origin")
    config = plan(places, init="origin", tokenizer="bytes").config
    assert (config.tokenizer, config.model.vocab_size) == ("bytes", 1000)


def test_a_checkpoint_is_trained_on_slowly_unless_a_preset_or_the_person_says_how(
    places: Locations, origin: Path
) -> None:
    config = plan(places, init="origin").config
    assert (config.train.learning_rate, config.train.zero_init, config.train.optimizer) == (1e-4, False, "adamw")
    adapted = plan(places, init="origin", sets={"lora_rank": "4"}).config.train
    assert (adapted.learning_rate, adapted.lora_rank) == (1e-3, 4)
    assert (
        plan(places, init="origin", sets={"lora_rank": "4", "learning_rate": "0.01"}).config.train.learning_rate == 0.01
    )
    preset = plan(places, init="origin", preset="gpt-micro").config.train
    assert preset.learning_rate == plan(places, preset="gpt-micro").config.train.learning_rate
    with pytest.raises(ConfigError, match="adapters need trained weights"):
        plan(places, sets={"lora_rank": "4"})


def test_a_start_from_a_run_records_the_run_and_the_step_that_it_is_of(places: Locations, origin: Path) -> None:
    run = Run.create(places.runs, plan(places).config, "parent")
    for step in (10, 20):
        shutil.copytree(origin, run.directory / "checkpoints" / f"step-{step:08d}")
    link = run.directory / "checkpoints" / "last"
    link.symlink_to("step-00000020")
    saved = run.directory / "checkpoints"
    for init, step in (("parent:10", 10), ("parent", 20), (str(link), 20), (str(saved / "step-00000010"), 10)):
        config = plan(places, init=init).config
        assert config.parent == f"parent:{step}"
        assert config.init == str(saved.resolve() / f"step-{step:08d}")  # whatever `last` is when the worker starts
    assert plan(places, init="origin").config.parent is None
    assert RunConfig.read(Run.create(places.runs, config, "child").directory / "config.toml").parent == "parent:10"


def test_a_start_from_a_file_of_weights_has_the_shape_of_the_weights(places: Locations) -> None:
    import torch

    weights = {"wte.weight": torch.zeros(257, 16), "wpe.weight": torch.zeros(24, 16)}
    weights["h.0.mlp.c_fc.bias"] = torch.zeros(64)
    torch.save({"model": weights, "model_args": {"n_head": 4}}, "weights.pth")
    config = plan(places, init="weights.pth").config
    assert config.model == ModelConfig(n_layer=1, n_head=4, n_embd=16, block_size=24, vocab_size=257)
    assert (config.init, config.tokenizer) == (str(Path("weights.pth").resolve()), "checkpoint")
    Path("weights.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="no file of weights"):
        plan(places, init="weights.pth")


def test_a_text_too_short_for_one_sequence_is_refused(places: Locations) -> None:
    Path("short.txt").write_text("abc")
    with pytest.raises(DataError, match="its 3 bytes leave at most 4 tokens to train on, and one sequence needs 17"):
        check_texts(plan(places, files=["short.txt"], sets={"block_size": "16", "sequence_length": "none"}).config)
    check_texts(plan(places, sets={"block_size": "16", "sequence_length": "none"}).config)
