"""The conformance kit: every stage of ours keeps every rule, and what breaks one is told so in words."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from torch import Tensor

from samplers import Context, Param, load_stage, stage_entries
from samplers import conformance_rules as rules

OURS = [name for name, entry in stage_entries().items() if entry.distribution == "gpt-tui"]


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", OURS)
def test_every_stage_of_ours_keeps_every_rule(name: str, rule: Callable[[type], None]) -> None:
    rule(load_stage(name))


@dataclass(frozen=True)
class Plain:
    """Changes nothing."""

    name: ClassVar[str] = "plain"

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits


def test_a_stage_that_changes_nothing_keeps_every_rule() -> None:
    for rule in rules.RULES:
        rule(Plain)


@dataclass
class Thawed:
    """Is not frozen."""

    name: ClassVar[str] = "thawed"


@dataclass(frozen=True)
class Undocumented:
    name: ClassVar[str] = "undocumented"


@dataclass(frozen=True)
class Outside(Plain):
    """Has a default outside its limits."""

    k: Annotated[int, Param(1, 5, help="k")] = 9


@dataclass(frozen=True)
class Double(Plain):
    """Returns float64."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits.double()


@dataclass(frozen=True)
class Empties(Plain):
    """Empties rows at an extreme."""

    p: Annotated[float, Param(0.0, 1.0, help="p")] = 0.5

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits.masked_fill(logits.softmax(-1) > 1 - self.p, -math.inf)


@dataclass(frozen=True)
class Revives(Plain):
    """Brings back what is out."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits.nan_to_num(neginf=-5.0)


@dataclass(frozen=True)
class FirstFive(Plain):
    """Cuts by a sort's place."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        order = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        return logits.masked_fill(order >= min(5, logits.shape[-1]), -math.inf)


@dataclass(frozen=True)
class InPlace(Plain):
    """Changes what it is given."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits.mul_(2)


@dataclass(frozen=True)
class Counting(Plain):
    """Remembers in a place of its own."""

    calls: ClassVar[list[int]] = []

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        self.calls.append(1)
        return logits + len(self.calls)


@dataclass(frozen=True)
class Batchwise(Plain):
    """Looks at other rows."""

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits - logits.mean()


@dataclass(frozen=True)
class NeverOff(Plain):
    """Acts when it is off."""

    b: Annotated[float, Param(0.0, 1.0, off=0.0, help="b")] = 0.5

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits + self.b + 1e-3


@dataclass(frozen=True)
class Appending(Plain):
    """Changes its memory."""

    def start(self) -> list[int]:
        return []

    def after(self, memory: list[int], token: int, logits_in: Tensor, logits_out: Tensor) -> list[int]:
        memory.append(token)
        return memory


@pytest.mark.parametrize(
    ("rule", "stage", "sentence"),
    [
        (rules.is_a_frozen_value, Thawed, "is not a frozen dataclass"),
        (rules.is_a_frozen_value, Undocumented, "has no docstring"),
        (rules.has_parameters_that_can_be_read, Outside, "k = 9 by default, which is not between 1 and 5"),
        (rules.keeps_shape_type_and_device, Double, "plain returns torch.float64 (5, 40) for torch.float32 (5, 40)"),
        (rules.returns_numbers_and_empties_no_row, Empties, "removes every token of"),
        (rules.leaves_out_what_is_out, Revives, "brings tokens back that were out"),
        (rules.treats_equals_as_equals, FirstFive, "treats equal logits of tokens"),
        (rules.changes_nothing_it_is_given, InPlace, "changes the logits it is given"),
        (rules.gives_the_same_again, Counting, "returns something else the second time"),
        (rules.sees_each_row_alone, Batchwise, "makes something else of a row in a batch"),
        (rules.changes_nothing_when_off, NeverOff, "plain=0 is off and changes ordinary rows"),
        (rules.remembers_by_values, Appending, "changes the memory it is given"),
    ],
)
def test_what_breaks_a_rule_is_told_in_words(rule: Callable[[type], None], stage: type, sentence: str) -> None:
    with pytest.raises(rules.BrokenRuleError) as broken:
        rule(stage)
    assert sentence in str(broken.value)


def run_pytest(where: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120)


def test_the_kit_runs_by_an_option_and_says_what_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        '    """Halves what it is given, in place."""\n\n'
        '    name: ClassVar[str] = "mine"\n\n'
        "    def __call__(self, logits, context):\n"
        "        return logits.div_(2)\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    good = run_pytest(tmp_path, "--gpt-tui-stage", "samplers.top_k:TopK", "-q")
    assert good.returncode == 0, good.stdout
    assert f"{len(rules.RULES)} passed" in good.stdout
    bad = run_pytest(tmp_path, "--gpt-tui-stage=mine:Mine", "-p", "mine", "test_other.py")
    assert bad.returncode == 1
    assert "mine changes the logits it is given: work on a copy." in bad.stdout
    assert "Traceback" not in bad.stdout
    assert f"1 failed, {len(rules.RULES)} passed" in bad.stdout
    absent = run_pytest(tmp_path, "--gpt-tui-stage", "no_such:Stage", "-q")
    assert absent.returncode == 1
    assert "no_such:Stage cannot be imported: ModuleNotFoundError" in absent.stdout
