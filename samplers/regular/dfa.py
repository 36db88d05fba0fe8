"""Dfa: an automaton's states numbered as they are met, in tables that numpy reads for a whole vocabulary at once."""

from typing import TYPE_CHECKING, Any

from samplers.regular.automaton import DEAD, FAR, Automaton, State

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


class Dfa:
    """Number 0 is DEAD. A state's row is made when it is first left."""

    def __init__(self, automaton: Automaton) -> None:
        import numpy as np  # here, for this storey is imported where nothing is computed

        self._automaton = automaton
        self._numbers: dict[State, int] = {}
        self.states: list[State] = []
        self.table: Array = np.zeros((64, 256), np.int32)
        """table[state, byte]: the next state."""
        self.distance: Array = np.full(64, FAR, np.int32)
        """Fewest bytes to a match."""
        self._ready: Array = np.zeros(64, np.bool_)
        self.number(DEAD)

    def number(self, state: State) -> int:
        """Return a state's number."""
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self.states)
            self.states.append(state)
            if number == len(self.table):
                self._grow()
            self.distance[number] = self._automaton.distance(state)
        return number

    def prepare(self, numbers: "Array") -> None:
        """See to it that the rows of these states are in the table."""
        import numpy as np

        wanted = np.zeros(len(self.table), np.bool_)
        wanted[numbers] = True
        for number in (wanted & ~self._ready).nonzero()[0].tolist():
            self._make(number)

    def after(self, number: int, piece: bytes) -> int:
        """Return the number of the state after some bytes."""
        for byte in piece:
            if not self._ready[number]:
                self._make(number)
            number = int(self.table[number, byte])
        return number

    def _make(self, number: int) -> None:
        row = [self.number(state) for state in self._automaton.row(self.states[number])]
        self.table[number] = row  # after they are numbered, for that may make a larger table
        self._ready[number] = True

    def _grow(self) -> None:
        import numpy as np

        more = len(self.table)
        self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.distance = np.concatenate([self.distance, np.full(more, FAR, np.int32)])
        self._ready = np.concatenate([self._ready, np.zeros(more, np.bool_)])
