"""Evaluation equals what a direct computation says."""

import math
from collections.abc import Callable

import pytest
import torch

from gpt_model.config import ModelConfig
from gpt_model.errors import DataError
from gpt_model.evaluation import evaluate
from gpt_model.model import GPT
from gpt_model.tokenizer import build_tokenizer

pytest_plugins = ["tiny_runs"]


def model_of(vocab_size: int, block_size: int = 8) -> GPT:
    torch.manual_seed(0)
    return GPT(ModelConfig(1, 2, 16, block_size, vocab_size, dropout=0.5))


@pytest.mark.parametrize("count", [2, 9, 10, 8 * 5 + 1, 8 * 5 + 4])
def test_every_token_but_the_first_is_predicted_once(sentences: Callable[[int], str], count: int) -> None:
    model, tokenizer = model_of(257), build_tokenizer("bytes")
    text = "the king sings under the sea of night"[:count].ljust(count, "a")
    ids = torch.tensor(tokenizer.encode(text))
    assert len(ids) == count
    model.eval()
    nats = 0.0
    for start in range(0, count - 1, 8):  # one window after another, each position by hand
        window = ids[start : start + 9]
        log_p = model(window[None, :-1])[0].log_softmax(dim=-1)
        nats -= sum(log_p[place, token].item() for place, token in enumerate(window[1:].tolist()))
    model.train()
    result = evaluate(model, tokenizer, text, batch_size=3)
    assert result.tokens == count - 1
    assert result.loss == pytest.approx(nats / (count - 1), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / (count - 1), rel=1e-5)
    assert model.training  # left as it was found


def test_bits_per_byte_counts_the_bytes_that_were_predicted(sentences: Callable[[int], str]) -> None:
    text = sentences(6)
    tokenizer = build_tokenizer("gpt2")
    result = evaluate(model_of(tokenizer.vocab_size), tokenizer, text)
    ids = tokenizer.encode(text)
    assert result.tokens == len(ids) - 1
    size = len(text.encode()) - len(tokenizer.token_bytes(ids[0]))
    assert result.bits_per_byte == pytest.approx(result.loss * result.tokens / math.log(2) / size, rel=1e-6)


def test_the_batch_size_changes_nothing(sentences: Callable[[int], str]) -> None:
    model, tokenizer, text = model_of(257), build_tokenizer("bytes"), sentences(10)
    losses = [evaluate(model, tokenizer, text, batch_size).loss for batch_size in (1, 4, 64)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_with_nothing_to_predict_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="at least two"):
        evaluate(model_of(257), build_tokenizer("bytes"), text)
