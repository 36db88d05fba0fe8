"""The funnel: what each stage of a chain left of the candidates, a line a stage; and how shares of one are written.

Lines are texts with the names of their styles. Knows no widget, and no Textual: the command line uses it too.
"""

import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from gpt_model.token_record import Account

Line = list[tuple[str, str]]
"""Texts, and the names of their styles."""

NUMBER = 5
"""Cells of a number and the space before it."""
KEPT = 7
WITH_TIME = 29
"""Cells from which on a stage's milliseconds are shown."""
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def funnel_lines(accounts: Sequence[Account], width: int) -> list[Line]:
    """Return a heading and a line for each stage that acts; those that are off are counted."""
    acting = [each for each in accounts if not each.off]
    timed = width >= WITH_TIME
    label = max(width - KEPT - NUMBER * (1 + timed), 1)
    heading = f"{'kept':>{KEPT}}{'mass':>{NUMBER}}" + (f"{'ms':>{NUMBER}}" if timed else "")
    lines: list[Line] = [[(set_cell_size("stage", label), "title"), (heading, "title")]]
    for each in acting:
        name = each.stage if cell_len(each.stage) <= label else fitted(stage_name(each.stage), label)
        numbers = f"{each.kept:>{KEPT},}{share(each.mass):>{NUMBER}}"
        time = f"{milliseconds(each.milliseconds):>{NUMBER}}" if timed else ""
        lines.append([(set_cell_size(name, label), "text"), (numbers, "number"), (time, "title")])
    if off := len(accounts) - len(acting):
        lines.append([(f"{off} stage{'s' if off > 1 else ''} off", "cut")])
    return lines


def stage_name(stage: str) -> str:
    """Return the name in a stage's text."""
    return re.split("[=:]", stage, maxsplit=1)[0]


def cut_label(stage: str, width: int) -> str:
    """Return by what a candidate was cut, in so many cells at most."""
    whole = f"cut: {stage_name(stage)}" if stage else "cut"
    return whole if cell_len(whole) <= width else fitted(stage_name(stage), width)


def fitted(text: str, cells: int) -> str:
    """Return a text, its end cut off where it is wider than so many cells."""
    return text if cell_len(text) <= cells else f"{set_cell_size(text, max(cells - 1, 0))}…"


def share(probability: float) -> str:
    """Return a probability in four cells: `1.00`, ` .31`, `.002`, `4e-5`."""
    if probability >= 0.995:
        return "1.00"
    if probability >= 0.095:
        return f" {probability:.2f}".replace("0.", ".", 1)
    if probability >= 0.0005:
        return f"{probability:.3f}".removeprefix("0")
    return f"{probability:.0e}".replace("e-0", "e-") if probability > 0 else "   0"


def milliseconds(value: float) -> str:
    """Return a time in at most four cells: `.03`, `1.24`, `12.4`, `1240`."""
    if value < 9.995:
        return f"{value:.2f}".removeprefix("0")
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def bar(fraction: float, cells: int) -> str:
    """Return a bar for a fraction of so many cells, in eighths of a cell; what is not nothing shows."""
    eighths = round(min(max(fraction, 0.0), 1.0) * cells * 8) or (1 if fraction > 0 else 0)
    full, part = divmod(eighths, 8)
    return "█" * full + _EIGHTHS[part]
