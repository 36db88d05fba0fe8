"""The document: exact text, the ids behind it, and versions that are never lost."""

from gpt_model.token_record import Finished, FinishReason, Token
from gpt_tui.document import Document, Timeline


def token(position: int, text: str, token_id: int = 7) -> Token:
    return Token(0, 0, position, token_id, text, 0.5, 0.5, 0, 1.0, 0.1, 1.0)


def finished(reason: FinishReason = "length", text: str = "") -> Finished:
    return Finished(0, reason, text, 2, 1, 0.0, 1.0)


def completed(prompt: str, ids: tuple[int, ...], texts: list[str], end: Finished | None = None) -> Document:
    document = Document()
    document.write(prompt)
    document.begin_completion(ids)
    for place, text in enumerate(texts):
        document.add(token(len(ids) + place, text, 100 + place))
    document.end_completion(end or finished())
    return document


def test_the_text_is_exact_and_goes_on_by_the_ids_that_were_drawn() -> None:
    document = completed("a\n b", (1, 2), ["x", "", "é\t"], finished(text="\ufffd"))
    assert document.text == "a\n bxé\t\ufffd"
    assert document.request_parts() == ("", (1, 2, 100, 101, 102))
    document.write(" more")
    assert document.request_parts() == (" more", (1, 2, 100, 101, 102))


def test_after_a_stop_text_the_text_is_tokenized_anew() -> None:
    document = completed("ab", (1, 2), ["x"], finished("stop"))
    assert document.request_parts() == ("abx", ())


def test_dropping_a_completion_leaves_what_stood_before_it() -> None:
    first = completed("ab", (1, 2), ["x", "y"])
    assert first.drop_completion()
    assert (first.text, first.request_parts()) == ("ab", ("ab", ()))
    assert not first.drop_completion()
    second = completed("ab", (1, 2), ["x", "y"])
    second.write("cd")
    second.begin_completion((1, 2, 100, 101, 3, 4))
    second.add(token(6, "z"))
    second.end_completion(finished())
    assert second.drop_completion()
    assert (second.text, second.request_parts()) == ("abxycd", ("cd", (1, 2, 100, 101)))


def test_a_completion_that_broke_off_keeps_its_tokens() -> None:
    document = Document()
    document.begin_completion((5,))
    document.add(token(1, "x", 9))
    document.end_completion(None)
    assert document.text == "x"
    assert document.request_parts() == ("", (5, 9))


def test_versions_are_walked_and_none_is_lost() -> None:
    timeline = Timeline()
    first = timeline.branch()
    first.write("one")
    second = timeline.branch()
    second.write(" two")
    assert (timeline.current.text, timeline.place) == ("one two", (3, 3))
    assert timeline.back()
    assert timeline.current.text == "one"
    branch = timeline.branch()
    branch.write(" three")
    assert (timeline.current.text, timeline.place) == ("one three", (4, 4))
    assert timeline.back()
    assert timeline.current.text == "one two"
    assert timeline.forward()
    assert not timeline.forward()
