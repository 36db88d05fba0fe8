"""The app driven by keys over a fake engine: complete, stop, go on, switch, lose the engine, reach every page."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from gpt_model.runs import list_runs
from gpt_tui.app import GptTui
from gpt_tui.locations import Locations
from gpt_tui.screens.checkpoint_picker import CheckpointPicker
from gpt_tui.screens.help import Help
from gpt_tui.screens.new_run import NewRun
from gpt_tui.screens.preset_picker import PresetPicker
from gpt_tui.screens.runs import RunsScreen
from gpt_tui.screens.train import TrainScreen
from gpt_tui.settings import load_settings
from gpt_tui.widgets.chain_panel import ChainPanel
from gpt_tui.widgets.header_line import HeaderLine
from gpt_tui.widgets.prompt_input import PromptInput
from gpt_tui.widgets.token_view import TokenView

FAKE = Path(__file__).with_name("fake_engine.py")


def make_app(home: Locations, pause: float = 0.0, tokens: int = 30) -> GptTui:
    engine = f"{sys.executable} {FAKE} {pause}"
    flags = {"engine": engine, "max_new_tokens": tokens, "chain": "temperature=0.8"}
    return GptTui(home, load_settings(home, {}, flags))


async def until(pilot: Pilot[int], true: Callable[[], bool], seconds: float = 10.0) -> None:
    for _ in range(round(seconds / 0.02)):
        if true():
            return
        await pilot.pause(0.02)
    raise AssertionError("it never came to that")


def text(app: GptTui) -> str:
    return app.complete_page.query_one(TokenView).text


def ready(app: GptTui) -> bool:
    return app.complete_page.query_one(HeaderLine).state == "ready"


async def test_a_prompt_is_completed_gone_on_with_and_written_again(home: Locations) -> None:
    app = make_app(home, tokens=3)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("h", "i", "enter")
        await until(pilot, lambda: text(app) == "hiabc" and ready(app))
        await pilot.press("enter")
        await until(pilot, lambda: text(app) == "hiabcabc" and ready(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.complete_page.writing is False and text(app) == "hiabcabc")
        await pilot.press("alt+left")
        await pilot.press("alt+left")
        await until(pilot, lambda: text(app) == "hiabc")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: text(app) == "")
        await pilot.press("up")
        assert app.complete_page.query_one(PromptInput).text == "hi"
    kept = [
        json.loads(line) for file in home.sessions.iterdir() for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [each["text"] for each in kept] == ["hiabc", "hiabcabc", "hiabcabc"]
    assert (kept[0]["completion"], kept[0]["token_ids"], kept[0]["checkpoint"]) == ("abc", [97, 98, 99], "fake")


async def test_escape_stops_and_keeps_what_came(home: Locations) -> None:
    app = make_app(home, pause=0.02, tokens=10_000)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("x", "enter")
        await until(pilot, lambda: len(text(app)) > 4)
        await pilot.press("escape")
        await until(pilot, lambda: ready(app))
        stopped = text(app)
        assert stopped.startswith("xabc")
        await pilot.press("enter")
        await until(pilot, lambda: len(text(app)) > len(stopped))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: ready(app))
        assert text(app).startswith(stopped)


async def test_the_next_token_obeys_a_switch_and_a_mark_shows_where(home: Locations) -> None:
    app = make_app(home, pause=0.02, tokens=10_000)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("x", "enter")
        await until(pilot, lambda: len(text(app)) > 3)
        for key in "/chain greedy":
            await pilot.press({" ": "space", "/": "slash"}.get(key, key))
        await pilot.press("enter")
        await until(pilot, lambda: text(app)[-1].isupper())
        await pilot.press("escape")
        await until(pilot, lambda: ready(app))
        piece = app.complete_page.document.pieces[-1]
        assert [token.chain for token in piece.tokens if token.chain] == ["temperature=0.8", "greedy"]
    assert 'chain = "greedy"' in home.settings_file.read_text(encoding="utf-8")


async def test_a_preset_is_chosen_from_a_list_and_a_decoder_by_a_command(home: Locations) -> None:
    home.settings_file.parent.mkdir(parents=True, exist_ok=True)
    home.settings_file.write_text('[presets]\ncalm = "top_k=7"\n', encoding="utf-8")
    app = make_app(home)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        panel = app.complete_page.query_one(ChainPanel)
        app.complete_page.prefill("/preset")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PresetPicker))
        await pilot.press("end", "enter")
        await until(pilot, lambda: str(panel.chain) == "top_k=7")
        app.complete_page.prefill("/decoder beam=2")
        await pilot.press("enter")
        await until(pilot, lambda: panel.render_line(0).text.split() == ["chain", "calm", "beam=2"])
        for wrong in ("/preset clam", "/decoder beem"):
            app.complete_page.prefill(wrong)
            await pilot.press("enter")
            await until(pilot, lambda wrong=wrong: app.complete_page.query_one(PromptInput).text == wrong)
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert {"Preset calm", "Preset llama.cpp"} <= set(titles)
    kept = tomllib.loads(home.settings_file.read_text(encoding="utf-8"))
    assert (kept["chain"], kept["decoder"], kept["presets"]) == ("calm", "beam=2", {"calm": "top_k=7"})


async def test_a_key_on_the_panel_changes_the_chain_while_it_streams(home: Locations) -> None:
    app = make_app(home, pause=0.02, tokens=10_000)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("x", "enter")
        await pilot.press("tab", "tab")
        await pilot.press("right")
        piece = app.complete_page.document.pieces
        await until(pilot, lambda: any(token.chain == "temperature=0.85" for token in piece[-1].tokens))


async def test_a_dead_engine_is_told_restarted_on_request_and_no_text_is_lost(home: Locations) -> None:
    app = make_app(home, pause=0.02, tokens=10_000)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("x", "enter")
        await until(pilot, lambda: len(text(app)) > 4)
        process = app.engine._process
        assert process is not None
        process.kill()
        header = app.complete_page.query_one(HeaderLine)
        await until(pilot, lambda: "engine gone" in header.state)
        kept = text(app)
        assert kept.startswith("xabc")
        await pilot.press("y", "enter")
        assert app.complete_page.query_one(PromptInput).text == "y"  # refused and given back, not lost
        await pilot.press("backspace", "f5")
        await until(pilot, lambda: ready(app))
        await pilot.press("enter")
        await until(pilot, lambda: len(text(app)) > len(kept))
        assert text(app).startswith(kept)


async def test_leaving_while_it_streams_keeps_what_came(home: Locations) -> None:
    app = make_app(home, pause=0.01, tokens=10_000)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("x", "enter")
        await until(pilot, lambda: len(text(app)) > 4)
        await pilot.press("ctrl+q")
    (file,) = home.sessions.iterdir()
    (kept,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert kept["text"].startswith("xabc")
    assert kept["finished"] is None


async def test_checkpoints_are_chosen_and_a_broken_one_is_told(home: Locations) -> None:
    app = make_app(home)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, CheckpointPicker))
        app.screen.query_one(Input).value = "/some/model"
        await pilot.press("enter")
        await until(pilot, lambda: "/some/model" in app.complete_page.query_one(HeaderLine).left)
        app.complete_page.prefill("/open broken")
        await pilot.press("enter")
        await until(pilot, lambda: any("broken" in each.message for each in app._notifications))
        await until(pilot, lambda: ready(app))  # the one before is still open
        await pilot.press("x", "enter")
        await until(pilot, lambda: text(app).startswith("xabc"))


async def test_pages_help_and_the_form_are_reached_by_keys(home: Locations, tmp_path: Path) -> None:
    app = make_app(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await pilot.press("escape")
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, NewRun))
        form = app.screen
        form.query_one("#files", Input).value = str(tmp_path / "absent.txt")
        await until(pilot, lambda: "There is no file" in str(form.query_one("#plan").render()))
        await pilot.press("enter")
        assert isinstance(app.screen, NewRun)
        assert list_runs(home.runs) == []
        await pilot.press("escape", "2")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (50, 12), (20, 5)])
async def test_every_page_can_be_drawn_at_any_size(home: Locations, size: tuple[int, int]) -> None:
    app = make_app(home)
    async with app.run_test(size=size) as pilot:
        for key in ("f2", "f3", "f4", "f1"):
            await pilot.press(key)
            await pilot.pause(0.1)
        assert app.is_running


async def test_a_piped_prompt_waits_in_the_field(home: Locations) -> None:
    app = GptTui(home, load_settings(home, {}, {"engine": f"{sys.executable} {FAKE}"}), "two\nlines")
    async with app.run_test():
        assert app.complete_page.query_one(PromptInput).text == "two\nlines"
