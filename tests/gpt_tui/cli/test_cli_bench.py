"""gpt-tui bench and eval --dtype: what they promise to print, on any model, with a tokenizer or without."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from command_lines import Cli

from gpt_model import benchmark, presets, step_benchmark
from gpt_model.backend import open_model
from gpt_model.checkpoint import save_checkpoint
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.generation import Engine
from gpt_model.language_model import LanguageModel
from gpt_model.model import GPT
from samplers import Chain


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the machine itself takes seconds and half a gigabyte; here a sliver of it does."""
    monkeypatch.setattr(benchmark, "_BUFFER", 2**16)
    monkeypatch.setattr(benchmark, "_SQUARE", 64)


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A checkpoint of odd shapes that brings no tokenizer."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "strange", GPT(ModelConfig(1, 7, 84, block_size=64, vocab_size=101)), None)
    return tmp_path / "strange"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_decode_keeps_its_interface(cli: Cli, strange: Path, dtype: str) -> None:
    outcome = cli(
        "bench", "decode", "-m", strange, "--dtype", dtype, "--samples", 2, "--prompt-tokens", 8, "--new-tokens", 8,
        "--threads", 1, "--rounds", 2, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    for name in ("tokens_per_second", "time_to_first_token", "bandwidth_fraction", "load_seconds", "prepare_seconds",
                 "peak_rss_bytes"):  # fmt: skip
        assert told[name] > 0, name
    assert told["backend"] == f"cpu {dtype}, compiled, 1 thread"


def test_decode_prefill_and_batch_read_well(cli: Cli, tiny: str) -> None:
    few = ("-m", tiny, "--rounds", "1")
    decode = cli("bench", "decode", *few, "--new-tokens", "4").out
    assert "cpu float32, compiled, 1 thread" in decode
    assert "tokens a second" in decode
    assert "GB/s" in decode
    outcome = cli("bench", "prefill", *few, "--sizes", "4,1000", "--json")
    assert [row["prompt_tokens"] for row in json.loads(outcome.out)["prefill"]] == [4, 64]  # no longer than the context
    assert "This model reads 64 tokens at most" in outcome.err
    batch = cli("bench", "batch", *few, "--samples", "3,1", "--new-tokens", "4").out.splitlines()
    assert "of one alone" in batch[-3]
    assert [line.split()[0] for line in batch[-2:]] == ["3", "1"]
    assert "1.00 ×" in batch[-1]
    assert batch[-1].endswith("%")


def test_without_one_alone_samples_are_compared_with_the_first_count(cli: Cli, tiny: str) -> None:
    outcome = cli("bench", "batch", "-m", tiny, "--rounds", 1, "--samples", "2,4", "--new-tokens", 4)
    assert "of 2 at a time" in outcome.out
    told = json.loads(cli("bench", "batch", "-m", tiny, "--rounds", 1, "--new-tokens", 4, "--json").out)
    assert all(row["bandwidth_fraction"] > 0 for row in told["batch"])


def test_counts_of_samples_are_measured_in_turn(cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(engine: object, chain: object, prompt: object, new_tokens: int, samples: int) -> benchmark.Pace:
        measured.append(samples)
        return benchmark.Pace(1.0, 1.0)

    monkeypatch.setattr(benchmark, "measure_pace", measure)
    assert cli("bench", "batch", "-m", tiny, "--rounds", 1, "--samples", "1,2").code == 0
    assert measured == [1, 2, 1, 2]


def test_an_empty_chain_is_one_and_a_prompt_is_no_longer_than_the_context(cli: Cli, strange: Path) -> None:
    few = ("-m", strange, "--rounds", 1, "--new-tokens", 2, "--json")
    outcome = cli("bench", "decode", *few, "-s", "", "--prompt-tokens", 200)
    told = json.loads(outcome.out)
    assert (told["chain"], told["prompt_tokens"]) == ("", 64)
    assert "This model reads 64 tokens at most" in outcome.err
    assert json.loads(cli("bench", "decode", *few).out)["chain"] == "min_p=0.05,temperature=0.8"


def test_nothing_of_one_prompt_is_known_to_the_next(strange: Path) -> None:
    opened = open_model(strange, "cpu")
    read: list[int] = []

    class Watched:
        """The model, and how many tokens it was given to read at a time."""

        def __getattr__(self, name: str) -> Any:
            return getattr(opened.model, name)

        def next_logits(self, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
            read.append(ids.shape[1])
            return opened.model.next_logits(ids, cache)

    engine = Engine(cast(LanguageModel, Watched()), None)
    for length in (9, 5, 9):
        benchmark.measure_pace(engine, Chain(), (1,) * length, 1, 1)
    assert read == [9, 5, 9]


def test_wrong_lists_of_numbers_are_refused(cli: Cli, tiny: str) -> None:
    outcome = cli("bench", "prefill", "-m", tiny, "--sizes", "4,no")
    assert outcome.code == 2
    assert "must be whole numbers above 0" in outcome.err


def test_load_starts_processes_of_their_own_on_any_model(cli: Cli, strange: Path) -> None:
    outcome = cli("bench", "load", "-m", strange, "--rounds", "1", "--json")
    told = json.loads(outcome.out)
    for name in ("first_token_seconds", "torch_seconds", "bandwidth_bytes_per_second", "matmul_flops_per_second"):
        assert told[name] > 0, name
    assert (told["backend"], told["dtype"]) == ("cpu float32, compiled, 1 thread", "float32")


def test_load_fails_as_every_command_does(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("bench", "load", "-m", tmp_path / "nowhere")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("gpt-tui: There is no checkpoint")


def test_the_child_of_load_draws_a_token_by_its_id(cli: Cli, strange: Path) -> None:
    assert cli("bench", "first-token", "-m", strange).code == 0
    assert "first-token" not in cli("bench", "--help").out


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """The only preset: a model that trains in no time."""
    config = ModelConfig(1, 2, 16, block_size=8, vocab_size=31)
    preset = presets.Preset("small", "bytes", config, TrainConfig(batch_size=4, sequence_length=6))
    monkeypatch.setattr(presets, "PRESETS", {"few": preset})
    monkeypatch.setattr(step_benchmark, "_SQUARE", 64)
    return config


def test_train_keeps_its_interface(cli: Cli, few: ModelConfig) -> None:
    outcome = cli("bench", "train", "--preset", "few", "--steps", 3, "--device", "cpu", "--threads", 1, "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["preset"], told["precision"], told["threads"]) == ("few", "float32", 1)
    assert told["tokens_per_second"] == pytest.approx(24 / told["step_seconds"])
    operations = step_benchmark.step_operations(few, 4, 6)
    assert told["matmul_fraction"] == pytest.approx(operations / told["step_seconds"] / told["matmul_flops_per_second"])
    assert told["peak_rss_bytes"] > 2**20


@pytest.mark.usefixtures("few")
def test_train_reads_well_and_refuses_a_preset_that_is_none(cli: Cli) -> None:
    read = cli("bench", "train", "--preset", "few", "--steps", 1, "--device", "cpu", "--precision", "bfloat16").out
    assert "4 × 6 tokens a step" in read
    assert "bfloat16" in read
    outcome = cli("bench", "train", "--preset", "fez")
    assert outcome.code == 2
    assert "Did you mean 'few'?" in outcome.err


def test_a_steps_operations_are_six_for_a_weight_and_token_and_those_of_attention() -> None:
    config, tokens = ModelConfig(3, 2, 16, block_size=8, vocab_size=31), 4 * 6
    weights = 3 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 31 * 16
    seen = 3 * 16 * 6 / 2  # of each layer's 6 positions, half
    assert step_benchmark.step_operations(config, 4, 6) == 6 * tokens * (weights + 2 * seen)


def test_eval_tells_the_price_of_every_precision(cli: Cli, tiny: str) -> None:
    Path("text.txt").write_text("To be, or not to be: that is the question.\n" * 5)
    told = json.loads(cli("eval", tiny, "text.txt", "--dtype", "all", "--json").out)["results"]
    assert [row["dtype"] for row in told] == ["float32", "float16", "bfloat16", "int8", "int4"]
    exact = told[0]["perplexity"]
    assert told[1]["perplexity"] == pytest.approx(exact, rel=1e-3)
    assert told[3]["perplexity"] == pytest.approx(exact, rel=1e-2)
    table = cli("eval", tiny, "text.txt", "--dtype", "float32", "--dtype", "int8").out.splitlines()
    assert table[0].split() == ["dtype", "loss", "perplexity", "price", "bits", "per", "byte"]
    assert "+0.000 %" in table[1]
    assert cli("eval", tiny, "text.txt", "--dtype", "auto").out.splitlines()[-1].split() == ["dtype", "float32"]


def test_a_dtype_that_is_none_is_refused_with_the_nearest(cli: Cli, tiny: str) -> None:
    outcome = cli("complete", "-m", tiny, "--dtype", "int9", "a")
    assert outcome.code == 2
    assert "Did you mean 'int8'?" in outcome.err
