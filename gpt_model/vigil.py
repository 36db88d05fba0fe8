"""Vigil: notices that another process of a run is gone or frozen although its connection stays. Knows no run, no model.

A host that is cut off, or a process that is stopped, closes no connection, and who waits for it waits for ever. How
long an update, a save or a pause takes says nothing, so a thread beside the work counts up a number of this process's
own in the store in which the processes found each other, and looks whether those of the others go on.
"""

import threading
from collections.abc import Callable, Sequence

from torch.distributed import Store  # type: ignore[attr-defined]

TICK_SECONDS = 5.0
PATIENCE_TICKS = 60
"""Silence after which a process is lost: five minutes, for a network to come back or a machine that swaps to catch up.

Ticks of this process's own, not time on a clock: processes that were all stopped, as a laptop is that sleeps, go on.
"""


class Vigil:
    """One process's watch over others; each of them has to keep one too."""

    def __init__(
        self, store: Store, own: int, others: Sequence[int], on_loss: Callable[[], object], over: threading.Event,
        tick: float = TICK_SECONDS, patience: int = PATIENCE_TICKS,
    ) -> None:  # fmt: skip
        """Watch from now on, until `over` is set.

        Args:
            store: A connection of the vigil's own: a request waits for as long as the network does.
            own: This process's rank.
            others: The ranks that are watched.
            on_loss: Called once, from a thread of the vigil's, when one of them is lost.
            over: Set when the others may go.
            tick: Seconds between two looks.
            patience: Looks without a sign of life after which a process is lost.
        """
        self._store, self._own, self._over, self._tick, self._patience = store, own, over, tick, patience
        self._silent = dict.fromkeys(others, 0)
        """How many ticks ago each of them was heard of."""
        self._on_loss = on_loss
        for task in (self._beat, self._watch):
            threading.Thread(target=task, name="vigil", daemon=True).start()

    def _beat(self) -> None:
        seen: dict[int, int] = {}
        try:
            while True:
                self._store.add(f"alive/{self._own}", 1)
                for rank in self._silent:
                    count = self._store.add(f"alive/{rank}", 0)  # reads, and waits for nobody to have written
                    if seen.get(rank) != count:
                        seen[rank], self._silent[rank] = count, 0
                if self._over.wait(self._tick):
                    return
        except RuntimeError:  # the store is gone, and with it rank 0: from here on nobody is heard of
            return

    def _watch(self) -> None:
        while not self._over.wait(self._tick):
            for rank in self._silent:
                self._silent[rank] += 1
            if max(self._silent.values()) > self._patience:
                self._on_loss()
                return
