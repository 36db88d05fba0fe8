"""The vigil: who goes on counting is alive, however slow; who stops is lost, though no connection is closed."""

import threading
from collections.abc import Sequence

from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from gpt_model.vigil import Vigil


class Silent(HashStore):  # type: ignore[misc]
    """A store behind a cable that was pulled: no request is ever answered, and none fails."""

    def __init__(self, over: threading.Event) -> None:
        super().__init__()
        self._over = over

    def add(self, key: str, value: int) -> int:
        self._over.wait()
        return 0


def keep(store: Store, own: int, others: Sequence[int], over: threading.Event) -> threading.Event:
    lost = threading.Event()
    Vigil(store, own, others, lost.set, over, tick=0.02, patience=20)
    return lost


def test_all_live_on_while_all_count_and_who_stops_is_lost() -> None:
    store, ends = HashStore(), [threading.Event() for _ in range(3)]
    leader = keep(store, 0, [1, 2], ends[0])
    followers = [keep(store, rank, [0], ends[rank]) for rank in (1, 2)]
    assert not leader.wait(1)
    assert not any(follower.is_set() for follower in followers)
    ends[2].set()  # frozen
    assert leader.wait(10)
    assert not any(follower.is_set() for follower in followers)
    ends[0].set()  # rank 0 ends then
    assert followers[0].wait(10)
    assert not followers[1].is_set()
    ends[1].set()


def test_who_is_never_answered_is_alone() -> None:
    over = threading.Event()
    assert keep(Silent(over), 1, [0], over).wait(10)
    over.set()


def test_when_it_is_over_nobody_is_missed() -> None:
    over = threading.Event()
    lost = keep(HashStore(), 0, [1], over)
    over.set()
    assert not lost.wait(1)
