"""python -m gpt_model.packer CHECKPOINT DTYPE DIRECTORY...: packs a checkpoint's weights, in a process of its own.

The float32 weights are needed for this alone; in the process that generates they would stay the peak of the memory.
What was packed goes into the first DIRECTORY that takes it.
"""

import sys
from contextlib import suppress
from pathlib import Path

from gpt_model.checkpoint import load_weights
from gpt_model.compiled.layout import PACKED_DTYPES
from gpt_model.compiled.packed_files import NOT_KEPT, TOO_LARGE, UNUSABLE, save_packed, save_refusal
from gpt_model.compiled.packing import RangeError, pack
from gpt_model.errors import GptError
from gpt_model.lifeline import end_with_parent
from gpt_model.weight_origin import origin_of


def main(arguments: list[str]) -> int:
    """Pack a checkpoint; the exit codes beside 0 are packed_files.py's."""
    end_with_parent()
    checkpoint, dtype, places = Path(arguments[0]), arguments[1], [Path(each) for each in arguments[2:]]
    assert dtype in PACKED_DTYPES
    try:
        origin = origin_of(checkpoint) if checkpoint.exists() else {}  # before: what is replaced meanwhile is noticed
        config, weights = load_weights(checkpoint)
        try:
            packed = pack(config, weights, dtype)
        except RangeError as error:
            with suppress(OSError):  # then it is found anew the next time
                save_refusal(places, config, dtype, origin, str(error))
            return _told(str(error), TOO_LARGE)
        save_packed(places, packed, origin)
    except GptError as error:
        return _told(str(error), UNUSABLE)
    except OSError as error:
        return _told(str(error), NOT_KEPT)
    return 0


def _told(why: str, code: int) -> int:
    print(why, file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
