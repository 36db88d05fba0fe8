"""begin_opening: what opening a checkpoint can begin with before torch is there. Knows no torch."""

from pathlib import Path

_GPU = Path("/dev/nvidia0")


def begin_opening(path: Path, device: str, dtype: str) -> None:
    """Read ahead what `backend.open_model` will need when it is given the same, as far as can be told by now.

    It is only a guess: a wrong one, or none, costs time and changes nothing.
    """
    if device == "cpu" or (device == "auto" and not _GPU.exists()):
        try:
            from gpt_model.compiled.layout import PACKED_DTYPES
            from gpt_model.compiled.packed_places import begin_reading
        except ImportError:  # without numba torch computes, from the checkpoint itself
            return
        kind = "float16" if dtype == "auto" else dtype  # as large models are packed; small ones are not
        if kind in PACKED_DTYPES:
            begin_reading(path, kind)
