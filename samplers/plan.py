"""Plan: what the next stages are to decide on rows, told in words that a compiled draw understands, not yet decided.

Whoever needs to know asks for `decided`, and the stages decide, each by its own definition. A draw that can carry out
the steps itself spares them that.
"""

from collections.abc import Sequence
from functools import cached_property

from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context


class Plan:
    """Rows as they were before, and the stages that act on them next."""

    def __init__(self, before: Rows, steps: Sequence[tuple[RowsStage, Context, Step]] = ()) -> None:
        self.before = before
        self.steps = tuple(steps)

    def then(self, stage: RowsStage, context: Context, step: Step) -> "Plan":
        """Return a plan with one stage more, whose decision is this step."""
        return Plan(self.before, (*self.steps, (stage, context, step)))

    @cached_property
    def decided(self) -> Rows:
        """What is left when every stage has decided."""
        rows = self.before
        for stage, context, _ in self.steps:
            rows = stage.on(rows, context)
        return rows
