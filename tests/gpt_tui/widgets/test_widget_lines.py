import math

import pytest

from gpt_tui.widgets.progress_line import ProgressLine, clock, scientific
from gpt_tui.widgets.status_line import StatusLine

NUMBERS = {"tokens_per_second": 18_400.0, "learning_rate": 9.1e-4, "grad_norm": 0.8, "eta_seconds": 372.0}


async def test_status_segments_keep_their_places(around) -> None:
    line = StatusLine()
    app = around(line)
    async with app.running(size=(82, 3)) as pilot:
        line.set_segments(["57/200 tok", "41 tok/s", "seed 7"], ["version 1/3"])
        await pilot.pause()
        assert app.lines() == ["57/200 tok   41 tok/s   seed 7" + " " * 39 + "version 1/3"]
        line.set_segments(["9/200 tok", "8 tok/s", "seed 7"], ["version 1/3"])
        await pilot.pause()
        assert app.lines()[0].startswith("9/200 tok    8 tok/s    seed 7")
        line.set_segments(["9/200 tok", "seed 7"])
        await pilot.pause()
        assert app.lines()[0].rstrip() == "9/200 tok   seed 7"


async def test_status_leaves_out_the_least_important_when_narrow(around) -> None:
    line = StatusLine()
    app = around(line)
    async with app.running(size=(60, 3)) as pilot:
        line.set_segments(["first", "second", "third"], ["right", "farther"])
        for width, shown in ((44, 5), (38, 4), (30, 3), (18, 2), (8, 1)):
            await pilot.resize_terminal(width, 3)
            await pilot.pause()
            kept = ["first", "second", "third", "right", "farther"][:shown]
            assert app.lines()[0].split() == kept


async def test_status_is_drawn_again_only_when_it_changed_and_only_so_far(around, monkeypatch) -> None:
    line = StatusLine()
    async with around(line).running(size=(60, 3)) as pilot:
        line.set_segments(["1/200 tok", "41 tok/s"], ["end"])
        await pilot.pause(0.1)
        asked = []
        refresh = line.refresh
        monkeypatch.setattr(
            line, "refresh", lambda *regions, **more: (asked.append(regions), refresh(*regions, **more))[1]
        )
        line.set_segments(["1/200 tok", "41 tok/s"], ["end"])
        assert asked == []
        line.set_segments(["2/200 tok", "41 tok/s"], ["end"])
        assert [region.size for region in asked[0]] == [(1, 1)]


async def test_progress_shows_a_bar_and_aligned_numbers(around) -> None:
    line = ProgressLine()
    app = around(line)
    async with app.running(size=(80, 3)) as pilot:
        line.set_progress(0.248, **NUMBERS)
        await pilot.pause()
        first = app.lines()[0]
        assert first.endswith("    24.8 %    18,400 tok/s   lr 9.1e-4   |g|  0.80    0:06:12 left")
        assert len(first) == 80
        line.set_progress(1.0, 950.0, 1e-3, 12.5, 4000.0)
        await pilot.pause()
        assert app.lines()[0].startswith("█" * 14 + "   100.0 %")
        assert [at for at, each in enumerate(app.lines()[0]) if each in "%|"] == [
            at for at, each in enumerate(first) if each in "%|"
        ]


@pytest.mark.parametrize(("width", "kept"), [(100, 5), (66, 4), (54, 3), (42, 2), (24, 1), (12, 1)])
async def test_progress_gives_up_numbers_before_its_bar(around, width, kept) -> None:
    line = ProgressLine()
    app = around(line)
    async with app.running(size=(width, 3)) as pilot:
        line.set_progress(0.5, **NUMBERS)
        await pilot.pause()
        shown = app.lines()[0]
        assert len(shown) == width
        order = ("%", "left", "tok/s", "lr", "|g|")
        assert [word in shown for word in order] == [place < kept for place in range(5)]
        if width >= 24:
            assert sum(each in "█▌─" for each in shown) >= 10


async def test_progress_moves_in_eighths_and_is_full_only_at_the_end(around) -> None:
    line = ProgressLine()
    app = around(line)
    async with app.running(size=(20, 3)) as pilot:
        for fraction, bar in (
            (0, "─" * 10),
            (0.06, "▌" + "─" * 9),
            (0.999, "█" * 9 + "▉"),
            (1, "█" * 10),
            (7, "█" * 10),
        ):
            line.set_progress(fraction)
            await pilot.pause()
            assert app.lines()[0][:10] == bar


async def test_progress_stands_numbers_that_are_no_numbers(around) -> None:
    line = ProgressLine()
    app = around(line)
    async with app.running(size=(90, 3)) as pilot:
        line.set_progress(0.1, 0.0, math.nan, math.inf, math.inf)
        await pilot.pause()
        assert "nan" in app.lines()[0]
        assert "left" not in app.lines()[0]


def test_numbers_as_text() -> None:
    assert [scientific(value) for value in (9.1e-4, 0.0, 12.0, math.nan)] == ["9.1e-4", "0.0e0", "1.2e1", "nan"]
    assert [clock(seconds) for seconds in (0, 372.4, 86_399, 2 * 86_400, 270_000)] == [
        "0:00:00", "0:06:12", "23:59:59", "2d 00h", "3d 03h",
    ]  # fmt: skip
