import pytest
from rich.cells import cell_len

from gpt_tui.widgets.visible_text import picture, token_label
from gpt_tui.widgets.wrapped_text import WrappedText


def wrap(width: int, *spans: str) -> WrappedText:
    wrapped = WrappedText(width)
    for span in spans:
        wrapped.append(span)
    return wrapped


def lines(wrapped: WrappedText) -> list[str]:
    return ["".join(piece.text for piece in line) for line in wrapped.lines]


def test_breaks_between_words_and_keeps_newlines_and_runs_of_spaces() -> None:
    assert lines(wrap(10, "the quick brown  fox\n\n jumps\n")) == ["the quick ", "brown  fox", "", " jumps", ""]


def test_the_space_at_which_a_line_breaks_takes_no_cell_but_further_ones_do() -> None:
    assert lines(wrap(5, "aaaaa bbbbb   c")) == ["aaaaa", "bbbbb", "  c"]


def test_a_word_longer_than_the_line_is_cut_and_goes_on() -> None:
    assert lines(wrap(6, "ab abcdefghijklm n")) == ["ab ", "abcdef", "ghijkl", "m n"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_streaming_in_small_spans_gives_the_same_lines_as_at_once(size: int) -> None:
    text = "First Citizen:\nBefore we proceed any further, hear me speak.  日本語 and e\u0301\tx" * 4
    spans = [text[at : at + size] for at in range(0, len(text), size)]
    assert lines(wrap(13, *spans)) == lines(wrap(13, text))


def test_wide_characters_count_two_cells_and_never_cross_the_edge() -> None:
    wrapped = wrap(5, "日本語テキスト")
    assert lines(wrapped) == ["日本", "語テ", "キス", "ト"]
    assert [wrapped.cells(line) for line in range(4)] == [4, 4, 4, 2]


def test_no_line_is_wider_than_the_width() -> None:
    wrapped = wrap(9, "wide 日本語, tab\tand \x1b[31mcontrols\x00 e\u0301e\u0301e\u0301 \u202e ab" * 5)
    assert max(map(cell_len, lines(wrapped))) <= 9
    assert [cell_len(line) for line in lines(wrapped)] == [wrapped.cells(n) for n in range(len(wrapped.lines))]


def test_tabs_go_to_the_next_stop() -> None:
    assert lines(wrap(20, "\ta\tb")) == ["    a   b"]


def test_control_characters_are_pictures_and_special() -> None:
    wrapped = wrap(20, "\x1b[0m\x00\u202e")
    assert lines(wrapped) == ["␛[0m␀<202e>"]
    assert [piece.text for piece in wrapped.lines[0] if piece.special] == ["␛", "␀", "<202e>"]


def test_an_accent_goes_on_the_character_before_it_even_across_spans() -> None:
    wrapped = wrap(20, "e", "\u0301", "x")
    assert lines(wrapped) == ["e\u0301x"]
    assert lines(wrap(20, "\u0301")) == ["◌\u0301"]


def test_every_span_has_a_place_even_one_without_text() -> None:
    wrapped = wrap(8, "abcdefg", "", "\n", " ", "hij klmnop")
    assert [list(wrapped.lines_of(span)) for span in range(5)] == [[0], [0], [0], [1], [1, 2]]
    assert wrapped.span_at(1, 2) == 4
    assert wrapped.column_of(1, 4) == 1


def test_a_word_that_moved_to_the_next_line_is_found_there() -> None:
    wrapped = wrap(8, "abcd ", "ef", "ghij")
    assert lines(wrapped) == ["abcd ", "efghij"]
    assert [list(wrapped.lines_of(span)) for span in range(3)] == [[0], [1], [1]]


def test_a_line_may_break_around_a_mark() -> None:
    wrapped = WrappedText(8)
    wrapped.append("abcdef")
    wrapped.append("│T 1│", mark=True)
    wrapped.append("gh")
    assert lines(wrapped) == ["abcdef", "│T 1│gh"]


def test_pictures_and_labels() -> None:
    assert [picture(each) for each in "a\x00\x7f\x9b\u200d\u2028\ud800"] == [
        None,
        "␀",
        "␡",
        "<9b>",
        "",
        "<2028>",
        "<d800>",
    ]
    assert token_label(" the\n") == "␣the\\n"
    assert token_label("") == "⋯"
