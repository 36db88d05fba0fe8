"""From the text of a decoder to the decoder, with checkpoints under the names that people give them."""

import dataclasses
from typing import TYPE_CHECKING

from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.locations import Locations

if TYPE_CHECKING:
    from gpt_model.decoding import Decoder


def open_decoder(text: str, locations: Locations) -> "Decoder":
    """Return the decoder of a text such as `beam=4` or `draft:model=RUN:best`; an empty one is plain.

    Imports torch. A field `model` is a checkpoint's name, and becomes its path.

    Raises:
        ChainError: the decoder is unknown, or a parameter is unknown or out of range.
        CheckpointError: there is no such checkpoint.
    """
    from gpt_model.decoding import parse_decoder

    decoder = parse_decoder(text)
    name = getattr(decoder, "model", None)
    if not isinstance(name, str) or not name:
        return decoder
    path = str(resolve_checkpoint(name, locations).path)
    return dataclasses.replace(decoder, model=path)  # type: ignore[type-var]
