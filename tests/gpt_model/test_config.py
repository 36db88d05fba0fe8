"""Configurations: limits, text values, TOML, presets."""

import dataclasses
from pathlib import Path

import pytest

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.config_values import apply_settings
from gpt_model.errors import ConfigError
from gpt_model.presets import PRESETS, load_preset


def test_gpt2s_presets_have_the_sizes_of_the_paper() -> None:
    millions = {name: round(preset.model.parameter_count / 1e6) for name, preset in PRESETS.items()}
    assert millions["gpt2"] == 124
    assert (millions["gpt2-medium"], millions["gpt2-large"], millions["gpt2-xl"]) == (355, 774, 1558)
    assert PRESETS["gpt2"].model.parameter_count == 124_439_808
    assert (PRESETS["gpt2"].train.batch_size, PRESETS["gpt2"].train.sequence_length) == (16, 128)


def test_settings_are_parsed_by_the_type_of_their_field() -> None:
    settings = {"n_layer": "3", "learning_rate": "1e-3", "max_steps": "2e3", "target_loss": "none", "schedule": "wsd"}
    model, train = apply_settings(ModelConfig(), TrainConfig(), settings)
    assert (model.n_layer, train.learning_rate, train.max_steps) == (3, 1e-3, 2000)
    assert (train.target_loss, train.schedule) == (None, "wsd")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("n_layers", "3", "Did you mean 'n_layer'"),
        ("n_layer", "0", "at least 1"),
        ("n_layer", "2.5", "whole number"),
        ("n_head", "7", "multiple of n_head"),
        ("dropout", "1", "below 1"),
        ("learning_rate", "fast", "must be a number"),
        ("learning_rate", "inf", "finite"),
        ("schedule", "steps", "must be one of"),
        ("sequence_length", "-5", "sequence_length = -5: must be at least 1"),
        ("seed", "99999999999999999999", "must be below 2"),
        ("threads", "100000", "at most 1,024"),
        ("sample_tokens", "1e9", "at most 100,000"),
        ("processes", "17", "batch_size = 16: 17 processes need at least a sequence each"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        apply_settings(ModelConfig(), TrainConfig(), {name: value})


def test_a_runs_configuration_reads_back_from_its_file(tmp_path: Path) -> None:
    config = RunConfig(
        ModelConfig(n_layer=2, n_inner=99), TrainConfig(target_loss=1.5), ("/a.txt",), "gpt2", None, "gpt2"
    )
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert RunConfig.read(file) == config
    file.write_text(config.to_toml().replace("n_layer", "n_layr"), encoding="utf-8")
    with pytest.raises(ConfigError, match="Did you mean 'n_layer'"):
        RunConfig.read(file)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gpt-micro'"):
        load_preset("gpt-macro")


def test_every_field_of_a_configuration_is_documented() -> None:
    source = Path(__file__).parents[2].joinpath("gpt_model/config.py").read_text(encoding="utf-8").splitlines()
    for config in (ModelConfig, TrainConfig):
        for field in dataclasses.fields(config):
            line = next(number for number, text in enumerate(source) if text.startswith(f"    {field.name}:"))
            assert source[line + 1].startswith('    """'), field.name
