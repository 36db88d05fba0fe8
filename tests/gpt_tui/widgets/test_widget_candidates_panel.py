import pytest

from gpt_model.token_record import Account, Candidate
from gpt_tui.widgets.candidates_panel import CandidatesPanel
from gpt_tui.widgets.funnel import bar, cut_label, milliseconds, share

CANDIDATES = (
    Candidate(5, " friar", 0.31, 0.5),
    Candidate(1, " sir", 0.12, 0.25),
    Candidate(6, "\n", 0.021, 0.0, "top_k=2"),
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
            "token   model      chain",
            " ␣friar   .31 █████  .50",
            "▸␣sir     .12 ██▌    .25",
            " \\n      .021 cut: top_k",
            " 日本語  .012        cut",
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


async def test_where_it_is_low_the_funnel_and_the_drawn_token_stay_and_other_candidates_go(
    around, token, wait_until
) -> None:
    panel = CandidatesPanel()
    app = around(panel)
    many = tuple(Candidate(place, f" {place}", 0.1, 0.1) for place in range(10))
    accounts = (Account("top_k=40", 40, 0.93, 0.1, 1.0), Account("dry:multiplier=0", 40, 0.93, 0.1, 0.0, off=True))
    async with app.running(size=(31, 13)) as pilot:
        panel.show(token(" 8", index=8, entropy=1.3863, candidates=many, accounts=accounts))
        await wait_until(pilot, lambda: "entropy 2.00 → 0.00 bits" in shown(app))
        assert [line.split()[0] for line in shown(app)[5:9]] == ["␣0", "␣1", "␣2", "▸␣8"]
        assert shown(app)[9:] == [
            "",
            "stage            kept mass   ms",
            "top_k=40           40  .93  .10",
            "1 stage off",
        ]


async def test_accounts_and_faults_are_shown_when_there_are_any(around, token, wait_until) -> None:
    panel = CandidatesPanel()
    app = around(panel)
    accounts = (Account("top_k", 40, 0.93, 0.1), Account("temperature=0.825", 50257, 1.0, 0.1))
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


def test_times_are_four_cells_at_most_and_a_cut_names_its_stage_as_far_as_there_is_room() -> None:
    assert [milliseconds(value) for value in (0.004, 0.034, 1.237, 9.999, 123.4)] == [
        ".00",
        ".03",
        "1.24",
        "10.0",
        "123",
    ]
    assert [cut_label("top_n_sigma=1", cells) for cells in (16, 15, 6)] == ["cut: top_n_sigma", "top_n_sigma", "top_n…"]
    assert cut_label("", 9) == "cut"
