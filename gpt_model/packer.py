"""python -m gpt_model.packer CHECKPOINT DTYPE DIRECTORY: packs a checkpoint's weights, in a process of its own.

The float32 weights are needed for this alone; in the process that generates they would stay the peak of the memory.
"""

import sys
from pathlib import Path

from gpt_model.checkpoint import load_weights
from gpt_model.compiled.layout import PACKED_DTYPES
from gpt_model.compiled.packed_files import origin_of, save_packed
from gpt_model.compiled.packing import RangeError, pack
from gpt_model.errors import GptError


def main(arguments: list[str]) -> int:
    """Pack a checkpoint; 3 when it cannot be loaded, 4 when it cannot be packed so, or the disk refuses."""
    checkpoint, dtype, directory = Path(arguments[0]), arguments[1], Path(arguments[2])
    assert dtype in PACKED_DTYPES
    try:
        origin = origin_of(checkpoint)
        save_packed(directory, pack(*load_weights(checkpoint), dtype), origin)
    except RangeError:
        return 4
    except GptError as error:
        print(error, file=sys.stderr)
        return 3
    except OSError as error:
        print(f"The packed weights could not be written to {directory}: {error}.", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
