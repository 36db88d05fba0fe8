import pytest
from textual import events
from textual._xterm_parser import XTermParser

from gpt_tui.widgets.prompt_input import PromptInput


@pytest.fixture
def field() -> PromptInput:
    return PromptInput()


def submitted(app) -> list[str]:
    return [message.text for message in app.posted if isinstance(message, PromptInput.Submitted)]


async def test_enter_submits_and_empties_even_an_empty_prompt(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        await pilot.press(*"ROMEO:", "enter")
        await wait_until(pilot, lambda: submitted(app) == ["ROMEO:"])
        assert field.text == ""
        await pilot.press("enter")
        await wait_until(pilot, lambda: submitted(app) == ["ROMEO:", ""])


@pytest.mark.parametrize("key", ["alt+enter", "ctrl+j", "shift+enter"])
async def test_a_new_line_has_keys_of_its_own(field, around, key) -> None:
    app = around(field)
    async with app.running() as pilot:
        await pilot.press("a", key, "b")
        assert field.text == "a\nb"
        assert submitted(app) == []


async def test_grows_from_one_to_six_lines_and_shrinks_again(field, around, wait_until) -> None:
    async with around(field).running(size=(40, 20)) as pilot:
        assert field.size.height == 1
        for lines in range(2, 9):
            await pilot.press("ctrl+j")
            await wait_until(pilot, lambda lines=lines: field.size.height == min(lines, 6))
        await pilot.press("enter")
        await wait_until(pilot, lambda: field.size.height == 1)


async def test_a_long_line_wraps_and_grows_too(field, around, wait_until) -> None:
    async with around(field).running(size=(20, 20)) as pilot:
        field.text = "word " * 10
        await wait_until(pilot, lambda: field.size.height == 4)
        assert pilot.app.focused is field


async def test_a_paste_keeps_its_newlines_and_does_not_submit(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        app.post_message(events.Paste("one\ntwo\n\n  three"))
        await wait_until(pilot, lambda: field.text == "one\ntwo\n\n  three")
        assert submitted(app) == []


async def test_control_characters_stay_in_the_text_and_off_the_screen(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        app.post_message(events.Paste("a\x1b[31mb\x00\x9b"))
        await wait_until(pilot, lambda: field.text == "a\x1b[31mb\x00\x9b")
        assert app.lines()[0].startswith("a␛[31mb␀␡")


async def test_up_and_down_walk_the_history_and_keep_the_draft(field, around) -> None:
    async with around(field).running() as pilot:
        field.set_history(["first", "second\nof two lines"])
        await pilot.press(*"dr", "up")
        assert field.text == "second\nof two lines"
        await pilot.press("up")  # a line up, not a prompt back
        assert field.text == "second\nof two lines"
        await pilot.press("up", "up", "up")
        assert field.text == "first"
        await pilot.press("down")
        assert field.text == "second\nof two lines"
        await pilot.press("down")
        assert field.text == "dr"
        await pilot.press("down")
        assert field.text == "dr"


async def test_up_in_a_wrapped_line_moves_the_cursor(field, around, wait_until) -> None:
    async with around(field).running(size=(20, 12)) as pilot:
        field.set_history(["before"])
        field.text = "word " * 10
        field.move_cursor(field.document.end)
        await wait_until(pilot, lambda: field.size.height == 4)
        await pilot.press("up", "up")
        assert field.text == "word " * 10
        await pilot.press("up", "up")
        assert field.text == "before"


async def test_what_was_submitted_is_the_newest_history_once(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        field.set_history(["old"])
        await pilot.press("x", "enter", "x", "enter", "enter", "up")
        assert field.text == "x"
        await pilot.press("up")
        assert field.text == "old"


async def test_enter_does_not_overtake_the_letters_before_it(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        for key in (*"typed in haste", "enter"):
            app.post_message(events.Key("space" if key == " " else key, None if key == "enter" else key))
        await wait_until(pilot, lambda: submitted(app) == ["typed in haste"])


async def test_ctrl_g_asks_for_the_editor_with_the_text(field, around, wait_until) -> None:
    app = around(field)
    async with app.running() as pilot:
        await pilot.press("h", "i", "ctrl+g")
        await wait_until(pilot, lambda: [message.text for message in app.posted] == ["hi"])
        assert isinstance(app.posted[0], PromptInput.EditorRequested)
        assert field.text == "hi"


def test_alt_enter_is_known_as_terminals_send_it() -> None:
    keys = [event.key for event in XTermParser().feed("\x1b\r") if isinstance(event, events.Key)]
    assert keys == ["alt+enter"]


async def test_tab_leaves_and_alt_letters_write_nothing(field, around) -> None:
    app = around(field)
    async with app.running() as pilot:
        field.post_message(events.Key("alt+h", "h"))  # as a terminal sends it
        await pilot.press("x", "tab")
        assert field.text == "x"
        assert not field.cursor_blink
