"""Guard: calls the stages of others so that nothing they do ends the stream or holds it up.

Their call happens on a thread of its own: one that does not come back in time is left behind.
"""

import math
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from samplers.errors import ChainError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 2.0
"""Seconds that a stage may take for one token before it is left behind."""

Call = tuple[Callable[[], Any], "queue.SimpleQueue[tuple[Any, BaseException | None]]"]


class Guard:
    """A thread that calls what may never return."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """Return what the function returns, and raise what it raises.

        Raises:
            ChainError: it took longer than PATIENCE; its thread is left to itself.
        """
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="stage of a plugin").start()
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._calls.put((function, answers))
        try:
            result, error = answers.get(timeout=PATIENCE)
        except queue.Empty:
            self._calls = None
            raise ChainError(f"did not return within {PATIENCE:g} s") from None
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Let the thread end."""
        if self._calls is not None:
            self._calls.put((_leave, queue.SimpleQueue()))
            self._calls = None


def _leave() -> None:
    raise SystemExit


def _serve(calls: "queue.SimpleQueue[Call]") -> None:
    import torch

    with torch.inference_mode():
        while True:
            function, answers = calls.get()
            if function is _leave:
                return
            try:
                answers.put((function(), None))
            except BaseException as error:  # sys.exit in a plugin must not end us
                answers.put((None, error))
            del function, answers


def checked(result: Any, logits: "Tensor") -> "Tensor":
    """Return a stage's result if it keeps the contract; the best token of a row is what the checks look at.

    Raises:
        ChainError: its shape, type or device is another, or a row holds NaN or +inf, or is empty.
    """
    if getattr(result, "shape", None) != logits.shape:
        raise ChainError(f"returned {_shape(result)} instead of logits of shape {tuple(logits.shape)}")
    if result.dtype != logits.dtype or result.device != logits.device:
        raise ChainError(f"returned {result.dtype} on {result.device} instead of {logits.dtype} on {logits.device}")
    for best in result.amax(dim=-1).tolist():  # NaN if any is NaN, +inf if any is, -inf if the row is empty
        if math.isnan(best):
            raise ChainError("returned NaN")
        if math.isinf(best):
            raise ChainError("returned +inf" if best > 0 else "removed every token")
    return result  # type: ignore[no-any-return]


def _shape(result: Any) -> str:
    return f"shape {tuple(result.shape)}" if hasattr(result, "shape") else type(result).__name__
