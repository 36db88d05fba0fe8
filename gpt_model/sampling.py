"""What a model in training writes at a step: always on the same prompt and the same luck, so that samples compare."""

from collections.abc import Callable

from gpt_model.config import TrainConfig
from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.token_record import Finished
from gpt_model.tokenizer import Tokenizer
from samplers import Chain
from samplers.temperature import Temperature
from samplers.top_k import TopK

SAMPLE_CHAIN = Chain((TopK(40), Temperature(0.8)))


def write_sample(
    model: GPT, tokenizer: Tokenizer, train: TrainConfig, broken_off: Callable[[], bool]
) -> tuple[str, bool]:
    """Return what the model writes after the run's sample prompt, and whether that is all and nobody broke it off."""
    request = Request(train.sample_prompt, SAMPLE_CHAIN, train.seed, max_new_tokens=train.sample_tokens, candidates=1)
    text = ""
    model.eval()
    try:
        for token in Engine(model, tokenizer).generate(request):
            text += token.text
            if broken_off():
                return text, isinstance(token, Finished)
    finally:
        model.train()
    return text, True
