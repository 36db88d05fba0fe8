import pytest
from textual.widgets import Input

from gpt_tui.widgets.chain_panel import ChainPanel
from samplers import Chain

TEXT = "top_k=40,min_p=0.05,temperature=0.8"


@pytest.fixture
def panel() -> ChainPanel:
    return ChainPanel()


def chains(app) -> list[str]:
    return [str(message.chain) for message in app.posted if isinstance(message, ChainPanel.ChainChanged)]


async def test_rows_fit_24_columns_and_keep_their_width(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running(size=(24, 12)) as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await wait_until(pilot, lambda: len(app.lines()) == 4)
        assert app.lines() == [
            "chain                   ",
            "▸ top_k       ◂     40 ▸",
            "  min_p           0.05  ",
            "  temperature     0.80  ",
        ]
        await pilot.press("down", "down", *["right"] * 5)
        await wait_until(pilot, lambda: app.lines()[3] == "▸ temperature ◂   1.05 ▸")
        assert {len(line) for line in app.lines()} == {24}


async def test_left_and_right_minus_and_plus_nudge_the_value(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press("down", "right", "plus", "left", "minus", "minus")
        await wait_until(pilot, lambda: len(chains(app)) == 5)
        assert [chain.split(",")[1] for chain in chains(app)] == [
            "min_p=0.06", "min_p=0.07", "min_p=0.06", "min_p=0.05", "min_p=0.04",
        ]  # fmt: skip
        assert str(panel.chain) == "top_k=40,min_p=0.04,temperature=0.8"


async def test_a_value_at_its_limit_posts_nothing(panel, around) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse("min_p=1"))
        await pilot.press("right")
        await pilot.pause()
        assert chains(app) == []


@pytest.mark.parametrize(("later", "earlier"), [("shift+down", "shift+up"), ("J", "K")])
async def test_stages_move_and_the_focus_goes_with_them(panel, around, wait_until, later, earlier) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press(later, later, later, earlier)
        await wait_until(pilot, lambda: len(chains(app)) == 3)
        assert chains(app) == [
            "min_p=0.05,top_k=40,temperature=0.8",
            "min_p=0.05,temperature=0.8,top_k=40",
            "min_p=0.05,top_k=40,temperature=0.8",
        ]
        await pilot.press("x")
        await wait_until(pilot, lambda: chains(app)[-1] == "min_p=0.05,temperature=0.8")


async def test_a_stage_that_is_off_keeps_its_value_and_place(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press("down", "space")
        await wait_until(pilot, lambda: chains(app) == ["top_k=40,temperature=0.8"])
        assert app.lines()[2].split() == ["▸", "min_p", "p", "off"]
        panel.set_chain(Chain.parse("top_k=40,temperature=0.8,greedy"))  # as a picker adds one
        await wait_until(pilot, lambda: [line.split()[-1] for line in app.lines()[2:]] == ["off", "0.80", "greedy"])
        await pilot.press("space")
        await wait_until(pilot, lambda: chains(app)[-1] == "top_k=40,min_p=0.05,temperature=0.8,greedy")
        await pilot.press("space")
        panel.set_chain(Chain.parse("top_p=0.9"))  # another chain altogether: nothing of the old one is left
        await wait_until(pilot, lambda: len(app.lines()) == 2)


async def test_nudging_a_stage_that_is_off_brings_it_back(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse("temperature=0.8"))
        await pilot.press("space", "right")
        await wait_until(pilot, lambda: chains(app) == ["", "temperature=0.85"])


async def test_a_typed_value_is_checked_and_the_reason_shown(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press("down", "enter", *"7.5", "enter")
        await wait_until(pilot, lambda: any("between 0 and 1" in line for line in app.lines()))
        assert chains(app) == []
        field = panel.query_one(Input)
        assert field.has_focus
        await pilot.press("home", "delete", "delete", "0", ".", "enter")
        await wait_until(pilot, lambda: chains(app) == ["top_k=40,min_p=0.05,temperature=0.8".replace("0.05", "0.5")])
        assert panel.has_focus
        assert not any("between" in line for line in app.lines())


async def test_the_keys_are_the_fields_while_one_types(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press("enter", "up", "down", "x", "a", "minus", "space", "shift+down")
        assert panel.query_one(Input).has_focus
        assert len(panel.chain) == 3
        await pilot.press("escape")
        await wait_until(pilot, lambda: panel.has_focus)
        assert app.posted == []
        assert str(panel.chain) == TEXT


async def test_leaving_the_field_drops_what_was_typed(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        await pilot.press("enter", "9", "tab")
        await wait_until(pilot, lambda: not panel.has_class("-typing"))
        assert str(panel.chain) == TEXT


async def test_an_empty_chain_teaches_the_next_key(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running(size=(24, 12)) as pilot:
        assert "a adds one." in " ".join(line.strip() for line in app.lines())
        await pilot.press("left", "x", "space", "enter", "J", "up", "a")
        await wait_until(pilot, lambda: len(app.posted) == 1)
        assert isinstance(app.posted[0], ChainPanel.StageAddRequested)


async def test_more_rows_than_room_scroll_with_the_focus(panel, around, wait_until) -> None:
    app = around(panel, css="ChainPanel { max-height: 4; }")
    async with app.running() as pilot:
        panel.set_chain(Chain.parse("top_k=40,min_p=0.05,temperature=0.8,top_p=0.9,greedy"))
        await wait_until(pilot, lambda: len(app.lines()) == 4)
        assert app.lines()[0].strip() == "chain 1/5"
        await pilot.press("down", "down", "down")
        await wait_until(pilot, lambda: app.lines()[3].startswith("▸ top_p"))
        await pilot.press("enter", *"0.5", "enter")
        await wait_until(pilot, lambda: chains(app)[-1:] == ["top_k=40,min_p=0.05,temperature=0.8,top_p=0.5,greedy"])


async def test_without_the_focus_no_row_is_marked(panel, around) -> None:
    app = around(panel)
    async with app.running() as pilot:
        panel.set_chain(Chain.parse(TEXT))
        app.screen.set_focus(None)
        await pilot.pause()
        assert not any("▸" in line for line in app.lines())


async def test_a_stage_that_is_off_takes_one_row_and_space_or_an_arrow_wakes_it(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running(size=(31, 12)) as pilot:
        panel.set_chain(Chain.parse("temperature=1,xtc:probability=0,min_p=0"))
        await wait_until(pilot, lambda: len(app.lines()) == 4)
        assert [line.split()[-1] for line in app.lines()[2:]] == ["off", "off"]
        await pilot.press("down", "right")
        await wait_until(pilot, lambda: chains(app) == ["temperature=1,xtc,min_p=0"])
        assert [line.split()[0] for line in app.lines()[2:6]] == ["▸", "threshold", "probability", "min_p"]
        await pilot.press("down", "down", *["left"] * 10)  # its probability back to 0
        await wait_until(pilot, lambda: len(app.lines()) == 4)
        assert app.lines()[2].split() == ["▸", "xtc", "off"]
        await pilot.press("down", "space")
        await wait_until(pilot, lambda: chains(app)[-1] == "temperature=1,xtc:probability=0,min_p=0.05")


async def test_the_title_names_the_preset_and_a_decoder_that_is_not_plain(panel, around, wait_until) -> None:
    app = around(panel)
    async with app.running(size=(24, 12)) as pilot:
        panel.set_names("transformers", "")
        await wait_until(pilot, lambda: app.lines()[0].rstrip() == "chain  transformers")
        panel.set_names("transformers", "beam=4")
        await wait_until(pilot, lambda: app.lines()[0] == "chain  transfor…  beam=4")
        panel.set_names("", "contrastive:k=6:alpha=0.5")
        await wait_until(pilot, lambda: app.lines()[0] == "chain  contrastive:k=6:…")
        await pilot.press("p")
        await wait_until(pilot, lambda: isinstance(app.posted[-1:][0], ChainPanel.PresetRequested))
