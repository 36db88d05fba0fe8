import pytest

from gpt_model.token_record import Account, Candidate
from gpt_tui.widgets.candidates_panel import CandidatesPanel, bar, share

CANDIDATES = (
    Candidate(5, " friar", 0.31, 0.5),
    Candidate(1, " sir", 0.12, 0.25),
    Candidate(6, "\n", 0.021, 0.0),
    Candidate(7, "日本語の長いトークン", 0.012, 0.0),
)


def shown(app) -> list[str]:
    return [line.rstrip() for line in app.lines()]


async def test_shows_a_tokens_numbers_and_its_candidates_in_24_columns(around, token, wait_until) -> None:
    panel = CandidatesPanel()
    app = around(panel)
    async with app.running(size=(24, 20)) as pilot:
        assert "Tab to the text" in "\n".join(shown(app))
        panel.show(token(" sir", index=1, p=0.12, rank=1, entropy=0.6931, candidates=CANDIDATES))
        await wait_until(pilot, lambda: "rank 2" in shown(app)[0])
        assert shown(app)[:9] == [
            "␣sir              rank 2",
            "p .12 → .17       u .412",
            "entropy 1.00 bits",
            "",
            "candidates   model chain",
            " ␣friar  █████  .31  .50",
            "▸␣sir    ██▌    .12  .25",
            " \\n      ·     .021  cut",
            " 日本語  ·     .012  cut",
        ]
        panel.show(None)
        await wait_until(pilot, lambda: "Tab to the text" in "\n".join(shown(app)))


async def test_a_token_that_is_no_candidate_stands_below_them(around, token, wait_until) -> None:
    panel = CandidatesPanel()
    app = around(panel)
    async with app.running(size=(30, 20)) as pilot:
        panel.show(token(" rare", index=99, p=0.0004, rank=812, candidates=CANDIDATES))
        await wait_until(pilot, lambda: any(line.startswith("▸␣rare") for line in shown(app)))
        assert shown(app).index(" …") == 9
        assert shown(app)[0].endswith("rank 813")


async def test_accounts_and_faults_are_shown_when_there_are_any(around, token, wait_until) -> None:
    panel = CandidatesPanel()
    app = around(panel)
    accounts = (Account("top_k", 40, 0.93, 0.1), Account("temperature", 50257, 1.0, 0.1))
    fault = "top_a raised ValueError; bypassed for this token"
    async with app.running(size=(24, 20)) as pilot:
        panel.show(token("x", accounts=accounts, faults=(fault,)))
        await wait_until(pilot, lambda: "top_k            40  .93" in shown(app))
        assert "temperature  50,257 1.00" in shown(app)
        assert fault in " ".join(line.strip() for line in shown(app))


async def test_only_another_token_draws_the_panel_again(around, token) -> None:
    panel = CandidatesPanel()
    async with around(panel).running() as pilot:
        panel.show(token("x"))
        await pilot.pause()
        drawn: list[int] = []
        draw = panel.render_line
        panel.render_line = lambda y: (drawn.append(y), draw(y))[1]
        panel.show(token("x"))
        await pilot.pause()
        assert drawn == []
        panel.show(token("y"))
        await pilot.pause()
        assert drawn


@pytest.mark.parametrize(
    ("probability", "text"),
    [(1.0, "1.00"), (0.995, "1.00"), (0.994, " .99"), (0.1, " .10"), (0.0949, ".095"), (0.0005, ".001"),
     (0.0004, "4e-4"), (1e-12, "1e-12"), (0.0, "   0")],
)  # fmt: skip
def test_shares_are_four_cells(probability: float, text: str) -> None:
    assert share(probability) == text


def test_bars_are_drawn_in_eighths_and_the_least_share_shows() -> None:
    assert [bar(fraction, 2) for fraction in (0, 1e-9, 0.25, 0.5, 1, 7)] == ["", "▏", "▌", "█", "██", "██"]
