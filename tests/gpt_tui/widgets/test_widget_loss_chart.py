import math

import numpy as np
import pytest

from gpt_tui.widgets.loss_chart import Chart, draw


def chart(*curves, width: int = 47, height: int = 10, log: bool = False, marks=()) -> Chart:
    points = [(np.asarray(x, float), np.asarray(y, float)) for x, y in curves]
    drawn = draw(points, {"checkpoint": marks}, width, height, log)
    assert drawn is not None
    return drawn


def owned_rows(drawn: Chart, owner: int) -> list[int]:
    return sorted({int(row) for row in np.argwhere(drawn.owners == owner)[:, 0]})


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right_without_gaps() -> None:
    drawn = chart(([0, 1000], [4, 2]))
    columns = np.argwhere(drawn.codes)[:, 1]
    assert set(columns) == set(range(drawn.codes.shape[1]))
    rows = [int(np.argwhere(drawn.codes[:, column])[0][0]) for column in range(drawn.codes.shape[1])]
    assert rows == sorted(rows)
    assert rows[0] <= 1
    assert rows[-1] >= 8


def test_one_point_is_one_cell_and_no_finite_value_is_no_chart() -> None:
    assert np.count_nonzero(chart(([5], [2.0])).codes) == 1
    assert draw([(np.array([]), np.array([]))], {}, 40, 10, log=True) is None
    assert draw([(np.array([1.0, 2.0]), np.array([math.nan, math.inf]))], {}, 40, 10, log=True) is None
    assert draw([(np.array([1.0]), np.array([-2.0]))], {}, 40, 10, log=True) is None


def test_a_spike_survives_between_many_points_and_does_not_decide_the_scale() -> None:
    steps = np.arange(100_000.0)
    values = np.linspace(4, 2, 100_000)
    values[70_000] = 50.0
    drawn = chart((steps, values))
    heights = (drawn.codes > 0).argmax(axis=0)  # the uppermost row with a dot
    assert list(np.flatnonzero(heights[10:] == 0) + 10) == [27]
    assert float(drawn.labels[0]) < 5


def test_all_values_of_the_curves_above_the_first_are_on_the_scale() -> None:
    steps = np.arange(1000.0)
    smoothed = np.full(1000, 2.0)
    smoothed[500] = 9.0
    assert float(chart((steps, np.full(1000, 2.0)), (steps, smoothed)).labels[0]) > 8


def test_the_uppermost_curve_owns_a_cell_alone() -> None:
    steps = np.arange(100.0)
    drawn = chart((steps, np.full(100, 2.0)), (steps, np.full(100, 2.0)), ([0, 99], [2.0, 2.0]))
    assert set(np.unique(drawn.owners)) == {-1, 2}
    apart = chart((steps, np.full(100, 1.0)), (steps, np.full(100, 2.0)), (steps, np.full(100, 3.0)))
    assert [len(owned_rows(apart, owner)) for owner in range(3)] == [1, 1, 1]
    assert owned_rows(apart, 2) < owned_rows(apart, 1) < owned_rows(apart, 0)


def test_a_value_that_is_not_finite_is_marked_at_its_step_and_the_line_goes_on() -> None:
    values = [2.0] * 101
    values[50] = math.nan
    drawn = chart((range(101), values))
    assert len(drawn.broken) == 1
    assert abs(drawn.broken[0] - drawn.codes.shape[1] // 2) <= 1
    assert set(np.argwhere(drawn.codes)[:, 1]) >= set(range(drawn.codes.shape[1] - 10))


def test_a_logarithmic_scale_gives_the_end_of_a_falling_curve_more_room() -> None:
    curve = (range(100), [4 * 0.97**step for step in range(100)])
    linear, logarithmic = (np.argwhere(chart(curve, log=log).codes[:, 20])[0][0] for log in (False, True))
    assert logarithmic < linear


def test_labels_have_one_width_and_fall_from_top_to_bottom() -> None:
    drawn = chart((range(100), np.linspace(4, 2, 100)), height=13)
    assert {len(label) for label in drawn.labels} == {6}
    values = [float(label) for label in drawn.labels if label.strip()]
    assert values == sorted(values, reverse=True)
    assert len(values) == 5
    assert len(set(values)) == 5


@pytest.mark.parametrize("last", [1, 7, 99, 1240, 20_000, 1_000_000])
def test_step_ticks_are_round_and_inside(last: int) -> None:
    drawn = chart(([1, last], [3, 2]), width=80)
    assert drawn.ticks[0] == (0, "0")
    assert all(0 <= column < drawn.codes.shape[1] for column, _ in drawn.ticks)
    assert len({column for column, _ in drawn.ticks}) == len(drawn.ticks)


def test_the_scales_stay_while_a_curve_grows_a_little() -> None:
    def grown(count: int) -> Chart:
        steps = np.arange(1, count + 1.0)
        return chart((steps, 2 + 2 * np.exp(-steps / 300)))

    assert grown(1010).ticks == grown(1100).ticks
    assert grown(1010).labels == grown(1100).labels


def test_late_curves_do_not_begin_at_step_zero() -> None:
    assert chart(([5000, 6000], [3, 2])).ticks[0][1] != "0"


def test_marks_are_columns_and_those_outside_are_left_out() -> None:
    drawn = chart(([0, 100], [3, 2]), marks=(0, 50, 100, 5000))
    assert drawn.marks == {"checkpoint": [0, 19, 39]}


def test_steps_out_of_order_are_put_in_order() -> None:
    drawn = chart(([100, 0, 50], [2, 4, 3]))
    assert np.array_equal(drawn.codes, chart(([0, 50, 100], [4, 3, 2])).codes)
