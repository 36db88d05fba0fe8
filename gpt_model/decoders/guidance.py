"""Classifier-free guidance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from gpt_model.decoding import Session, Step
from gpt_model.drawing import cleaned
from gpt_model.errors import GenerationError
from gpt_model.language_model import Reader
from samplers import Param


@dataclass(frozen=True)
class Guidance:
    """Lead the text away from what a negative prompt would have said, and further towards its own prompt.

    z = z_u + scale · (z_c - z_u): z_c and z_u are the log-probabilities of the next token after the prompt, and after
    the negative prompt, followed both by what has been written. The chain is given z. Without a negative prompt it is
    the prompt's last token alone. Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance",
    arXiv 2306.17806, equation 7. A token costs two passes.
    """

    name: ClassVar[str] = "guidance"
    together: ClassVar[bool] = False
    scale: Annotated[float, Param(1, 5, 0.1, off=1, help="how far; 1 is off")] = 1.5
    negative: Annotated[str, Param(0, 0, help="the negative prompt; empty: the prompt's last token")] = ""

    def decode(self, session: Session) -> Iterator[Step]:
        negative = self._negative_prompt(session)
        reader = Reader(session.model)
        logits = session.read_prompt()
        while True:
            if self.scale == 1:
                yield session.step(logits)
            else:
                if not session.use_cache:
                    reader = Reader(session.model)
                against = reader.read_prompt(negative + session.past.tokens[session.past.prompt_length :])
                yield session.step(self.guided(logits, against), logits)
            logits = session.read_last()

    def guided(self, logits: Tensor, against: Tensor) -> Tensor:
        """Return z (B, V) of the model's logits after the prompt and after the negative one; what is no number is out.

        Raises:
            GenerationError: a row has no finite number: the model is broken.
        """
        meant, unwanted = (cleaned(each).logits.log_softmax(dim=-1) for each in (logits, against))
        return cleaned(unwanted + self.scale * (meant - unwanted)).logits

    def _negative_prompt(self, session: Session) -> list[int]:
        if not self.negative:  # of a text that goes on, it is still the last token of its first prompt
            return session.past.tokens[session.past.prompt_length - 1 : session.past.prompt_length]
        if session.vocabulary is None:
            raise GenerationError("This model has no tokenizer, so it cannot read the text of a negative prompt.")
        ids = session.vocabulary.encode(self.negative)
        vocab_size = session.model.config.vocab_size
        if outside := [token for token in ids if token >= vocab_size]:
            raise GenerationError(
                f"Token id {outside[0]} of the negative prompt is outside the model's vocabulary of {vocab_size:,}."
            )
        return ids
