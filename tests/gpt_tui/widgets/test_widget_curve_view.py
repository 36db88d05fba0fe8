import math
import subprocess
import sys

import pytest

from gpt_tui.widgets.curve_view import CurveView


@pytest.fixture
def view() -> CurveView:
    return CurveView()


CSS = "CurveView { height: 1fr; }"
STEPS = list(range(1, 201))
FALLING = [4 * 0.995**step for step in STEPS]


async def test_without_points_it_says_what_will_stand_here(view, around) -> None:
    app = around(view, css=CSS)
    async with app.running():
        assert app.lines()[0].startswith("The loss will stand here")


async def test_draws_axes_curves_legend_and_marks(view, around, wait_until) -> None:
    app = around(view, css=CSS)
    values = [*FALLING[:100], math.nan, *FALLING[101:]]
    async with app.running(size=(80, 16)) as pilot:
        view.set_series((STEPS, values), (STEPS, FALLING), ([50, 100, 150, 200], [3.3, 2.6, 2.1, 1.8]))
        view.set_marks(checkpoint=[50, 150], edit=[80], spike=[])
        await wait_until(pilot, lambda: "▲" in app.lines()[-2])
        lines = app.lines()
        assert lines[0].startswith("loss, log")
        assert [name for name in ("train", "smoothed", "val", "▲ checkpoint", "✗ not finite") if name in lines[0]] == [
            "train", "smoothed", "val", "▲ checkpoint", "✗ not finite",
        ]  # fmt: skip
        assert lines[-2].count("▲") == 2
        assert lines[-2].count("✗") == 1
        assert lines[-2].count("◆") == 1
        assert "! spike" not in lines[0]
        assert lines[-1].split()[0] == "0"
        assert lines[-1].split()[-1] in ("200", "steps")
        assert {len(line) for line in lines} == {80}
        assert sum("⠀" < character <= "⣿" for line in lines[1:-2] for character in line) > 50


async def test_l_changes_the_scale_and_0_resets_it(view, around, wait_until) -> None:
    app = around(view, css=CSS)
    async with app.running(size=(80, 16)) as pilot:
        view.set_series((STEPS, FALLING))
        await wait_until(pilot, lambda: app.lines()[0].startswith("loss, log"))
        before = app.lines()
        await pilot.press("l")
        assert app.lines()[0].startswith("loss, linear")
        assert not view.logarithmic
        assert app.lines()[1:] != before[1:]
        await pilot.press("0")
        assert app.lines() == before
        await pilot.press("0")
        assert app.lines() == before


async def test_more_points_extend_the_curves(view, around, wait_until) -> None:
    app = around(view, css=CSS)
    async with app.running(size=(60, 12)) as pilot:
        view.extend(raw=(STEPS[:100], FALLING[:100]))
        await wait_until(pilot, lambda: " 100" in app.lines()[-1])
        view.extend(raw=(STEPS[100:], FALLING[100:]), val=([200], [1.9]))
        await wait_until(pilot, lambda: " 200" in app.lines()[-1] and "val" in app.lines()[0])


async def test_draws_twice_a_second_at_most_and_not_without_news(view, around, wait_until, monkeypatch) -> None:
    drawings: list[int] = []
    strips = CurveView._chart_strips
    monkeypatch.setattr(CurveView, "_chart_strips", lambda self, *size: (drawings.append(1), strips(self, *size))[1])
    app = around(view, css=CSS)
    async with app.running(size=(60, 12)) as pilot:
        view.set_series((STEPS[:1], FALLING[:1]))
        await wait_until(pilot, lambda: "loss, log" in app.lines()[0])
        drawings.clear()
        for count in range(2, 60):
            view.set_series((STEPS[:count], FALLING[:count]))
            await pilot.pause(0.005)
        await wait_until(pilot, lambda: drawings)
        assert len(drawings) <= 2
        await pilot.pause(0.6)
        drawings.clear()
        values = [*FALLING[:58], math.nan]
        view.set_series((STEPS[:59], values))
        await wait_until(pilot, lambda: drawings)
        view.set_series((STEPS[:59], list(values)))  # the same again, NaN included
        view.set_marks()
        await pilot.pause(0.6)
        assert len(drawings) == 1


async def test_only_lines_that_changed_are_drawn_again(view, around, wait_until) -> None:
    app = around(view, css=CSS)
    async with app.running(size=(60, 20)) as pilot:
        view.set_series((STEPS, FALLING))
        await wait_until(pilot, lambda: "loss, log" in app.lines()[0])
        await pilot.pause(0.3)  # until the first drawing is on the screen
        drawn: list[int] = []
        draw = view.render_line
        view.render_line = lambda y: (drawn.append(y), draw(y))[1]
        view.set_marks(checkpoint=[100])
        await wait_until(pilot, lambda: drawn)
        assert sorted(set(drawn)) == [0, 18]  # the legend and the axis


@pytest.mark.parametrize("size", [(10, 3), (24, 5), (200, 60)])
async def test_any_size_is_drawn(view, around, wait_until, size) -> None:
    app = around(view, css=CSS)
    async with app.running(size=size) as pilot:
        view.set_series((STEPS, FALLING), (STEPS, FALLING), ([200], [2.0]))
        await pilot.pause(0.6)
        assert {len(line) for line in app.lines()} == {size[0]}


async def test_values_that_cannot_be_drawn_are_named(view, around, wait_until) -> None:
    app = around(view, css=CSS)
    async with app.running(size=(60, 12)) as pilot:
        view.set_series(([1, 2], [math.nan, math.inf]))
        await wait_until(pilot, lambda: "not finite" in " ".join(app.lines()))


def test_numpy_is_not_imported_before_there_is_a_curve() -> None:
    code = "import sys, gpt_tui.widgets.curve_view; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
