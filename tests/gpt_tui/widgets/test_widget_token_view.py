import os
import time
from itertools import pairwise

import pytest

from gpt_tui.widgets.token_heat import heat_level
from gpt_tui.widgets.token_view import HINT, Span, TokenView


def spans(token, texts, kind="model"):
    return [Span(text, kind, token(text, index)) for index, text in enumerate(texts)]


async def test_shows_the_text_exactly_and_never_as_markup(around, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running() as pilot:
        assert app.lines()[0].startswith(HINT[:20])
        view.set_document([Span("[b]ROMEO[/b]:\n", "prompt"), Span("I do   beseech\n\n_so_ \x1b[0m", "model")])
        await wait_until(pilot, lambda: "ROMEO" in app.lines()[0])
        assert [line.rstrip() for line in app.lines()[:4]] == ["[b]ROMEO[/b]:", "I do   beseech", "", "_so_ ␛[0m"]
        view.clear()
        assert view.text == ""
        assert app.lines()[0].startswith(HINT[:20])


async def test_appends_are_drawn_together_and_marks_are_no_text(around, token, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running() as pilot:
        view.set_document([Span("One", "prompt")])
        for text in (" two", " three"):
            view.append(Span(text, "model", token(text)))
        view.append(Span("│T 1.2│", "mark"))
        view.append(Span(" four", "model", token(" four")))
        assert view.text == "One two three four"
        await wait_until(pilot, lambda: app.lines()[0].rstrip() == "One two three│T 1.2│ four")


async def test_frames_are_few_even_when_tokens_are_many(around, token, monkeypatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "somewhere")
    view = TokenView()
    frames = []
    app = around(view)
    async with app.running() as pilot:
        draw = view.flush
        monkeypatch.setattr(view, "flush", lambda: (frames.append(time.monotonic()), draw()))
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            view.append(Span("x ", "model", token("x ")))
            await pilot.pause(0.002)
    assert 1 <= len(frames) <= 0.6 * 12 + 2


async def test_follows_the_end_until_the_reader_goes_up(around, token, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running(size=(30, 9)) as pilot:
        for number in range(40):
            view.append(Span(f"line {number}\n", "model", token("x")))
        await wait_until(pilot, lambda: any("line 39" in line for line in app.lines()))
        assert view.following
        await pilot.press("pageup", "pageup")
        assert not view.following
        top = view.scroll_offset.y
        for number in range(40, 80):
            view.append(Span(f"line {number}\n", "model", token("x")))
        view.flush()
        await pilot.pause()
        assert view.scroll_offset.y == top
        assert app.lines()[-1].endswith("↓ more ")
        await pilot.press("end")
        assert view.following
        assert any("line 79" in line for line in app.lines())
        assert "more" not in app.lines()[-1]
        view.append(Span("line 80\n" * 9, "model", token("x")))
        view.flush()
        await pilot.pause()
        assert any("line 80" in line for line in app.lines())


async def test_scrolls_by_a_third_of_a_page_at_once(around, token) -> None:
    view = TokenView()
    async with around(view).running(size=(30, 12)) as pilot:
        tops = []
        for number in range(60):
            view.append(Span(f"line {number}\n", "model", token("x")))
            view.flush()
            await pilot.pause()
            tops.append(view.scroll_offset.y)
    jumps = [after - before for before, after in pairwise(tops) if after != before]
    assert set(jumps) == {5}  # the line that was too much, and a third of twelve
    assert len(jumps) >= 9


async def test_a_new_width_wraps_anew_and_stays_at_the_end(around, token, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running(size=(60, 8)) as pilot:
        view.set_document(spans(token, [f"word{number} " for number in range(80)]))
        await pilot.resize_terminal(24, 8)
        await wait_until(pilot, lambda: view.size.width == 24 and any("word79" in line for line in app.lines()))
        assert all(len(line) == 24 for line in app.lines())
        assert view.following


async def test_a_new_width_keeps_the_readers_place(around, token, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running(size=(60, 8)) as pilot:
        view.set_document(spans(token, [f"word{number} " for number in range(300)]))
        await pilot.press("pageup", "pageup", "pageup")
        first = app.lines()[0].split()[0]
        await pilot.resize_terminal(31, 8)
        await wait_until(pilot, lambda: view.size.width == 31)
        assert first in app.lines()[0]
        assert not view.following


async def test_a_shorter_document_is_shown_from_its_end(around, token) -> None:
    view = TokenView()
    app = around(view)
    async with app.running(size=(30, 8)) as pilot:
        view.set_document(spans(token, ["long\n"] * 100))
        await pilot.press("pageup")
        view.set_document(spans(token, ["short\n"] * 3))
        await pilot.pause()
        assert [line.strip() for line in app.lines()[:4]] == ["short", "short", "short", ""]


async def test_the_cursor_walks_over_tokens_and_says_which(around, token, wait_until) -> None:
    view = TokenView()
    app = around(view)
    async with app.running() as pilot:
        view.set_document([Span("prompt", "prompt"), *spans(token, [" a", " b", "\n", " c"]), Span("tail", "model")])
        await pilot.press("escape")  # nobody walks yet: not ours
        assert view.cursor is None
        await pilot.press("left")
        assert view.cursor == 3
        await pilot.press("left", "left", "left", "left", "left")
        assert view.cursor == 0
        await pilot.press("right", "down")
        assert view.cursor == 3
        await pilot.press("home")
        assert view.cursor == 0
        await pilot.press("end")
        await wait_until(pilot, lambda: len(app.posted) == 8)
        assert [message.token.text for message in app.posted][-3:] == [" c", " a", " c"]
        await pilot.press("escape")
        assert view.cursor is None


async def test_the_cell_under_the_cursor_is_reversed_even_on_a_newline(around, token) -> None:
    view = TokenView()
    async with around(view).running() as pilot:
        view.set_document(spans(token, ["ab", "\n", "cd"]))
        for cursor, line, text in ((0, 0, "ab"), (1, 0, " "), (2, 1, "cd")):
            view.cursor = cursor
            await pilot.pause()
            reversed_text = [s.text for s in view.render_line(line) if s.style and s.style.reverse]
            assert reversed_text == [text]


async def test_a_walker_is_not_carried_away_by_new_text(around, token) -> None:
    view = TokenView()
    async with around(view).running(size=(30, 9)) as pilot:
        view.set_document(spans(token, [f"line {number}\n" for number in range(30)]))
        await pilot.press("left")
        top = view.scroll_offset.y
        for _ in range(30):
            view.append(Span("more\n", "model", token("more\n")))
        view.flush()
        await pilot.pause()
        assert view.scroll_offset.y == top
        await pilot.press("home")
        assert view.scroll_offset.y == 0
        await pilot.press("escape", "end")
        assert view.following


async def test_a_click_puts_the_cursor_on_a_token(around, token) -> None:
    view = TokenView()
    async with around(view).running() as pilot:
        view.set_document(spans(token, ["ab", " cd", " ef"]))
        await pilot.click(view, offset=(4, 0))
        assert view.cursor == 1


@pytest.mark.parametrize("theme", ["textual-dark", "ansi-dark"])
async def test_heat_tells_tokens_apart_with_and_without_colour(around, token, theme) -> None:
    view = TokenView()
    app = around(view, theme=theme)
    async with app.running() as pilot:
        likely, unlikely = token("likely", p=0.99, entropy=0.1), token("unlikely", p=0.001, rank=300, entropy=6.0)
        view.set_document([Span("likely", "model", likely), Span(" unlikely", "model", unlikely)])
        plain = {segment.style for segment in view.render_line(0)}
        assert len(plain) == 1
        for heat in ("probability", "surprisal", "rank", "entropy"):
            view.heat = heat
            await pilot.pause()
            styles = [segment.style for segment in view.render_line(0)]
            assert styles[0] != styles[1]
            if theme == "ansi-dark":
                assert styles[0].dim
                assert styles[1].reverse
                assert styles[1].bgcolor == styles[0].bgcolor
        with pytest.raises(ValueError, match="no heat"):
            view.heat = "warm"


@pytest.mark.parametrize(
    ("heat", "values", "levels"),
    [
        ("probability", [0.9, 0.5, 0.01], [0, 2, 5]),
        ("surprisal", [0.9, 0.2, 0.0], [0, 2, 5]),
    ],
)
def test_heat_levels_of_probabilities(token, heat, values, levels) -> None:
    assert [heat_level(token("x", p=value), heat) for value in values] == levels


def test_heat_levels_of_rank_and_entropy(token) -> None:
    assert [heat_level(token("x", rank=rank), "rank") for rank in (0, 1, 3, 10, 50, 400)] == [0, 1, 2, 3, 4, 5]
    assert [heat_level(token("x", entropy=nats), "entropy") for nats in (0.0, 1.0, 5.0)] == [0, 1, 5]


async def test_a_token_costs_the_same_after_twenty_thousand(around, token) -> None:
    """Counted, not timed: how many characters are laid out for a token late in a long text."""
    view = TokenView()
    async with around(view).running() as pilot:
        view.set_document(spans(token, [f" w{number}" for number in range(20_000)]))
        await pilot.pause()
        lines = view._wrapped.lines
        before = [id(line) for line in lines[:-1]]
        asked: list[int] = []
        draw = view.render_line
        view.render_line = lambda y: (asked.append(y), draw(y))[1]
        for _ in range(3):
            view.append(Span(" x", "model", token(" x")))
            view.flush()
            await pilot.pause()
        assert [id(line) for line in lines[: len(before)]] == before
        assert len(asked) <= 2 * 3 + view.size.height  # the tail, and at most one jump


def test_frames_are_slower_over_ssh(monkeypatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert os.environ.get("SSH_CONNECTION") is None
    assert TokenView()._interval == pytest.approx(1 / 30)
    monkeypatch.setenv("SSH_CONNECTION", "x")
    assert TokenView()._interval == pytest.approx(1 / 12)
