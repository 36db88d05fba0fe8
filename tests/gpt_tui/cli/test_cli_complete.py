"""gpt-tui complete: where the prompt comes from, what stands on which stream, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest
from command_lines import Cli, Start

from gpt_model.token_record import Finished, Token
from gpt_tui.cli.completion_output import JsonLinesWriter, TextWriter, Writer
from gpt_tui.locations import Locations

ARGUMENTS = ("-m", "tiny", "--seed", "7", "--max-new-tokens", "12", "--ignore-end-of-text")


@pytest.fixture(autouse=True)
def model(tiny: str) -> str:
    return tiny


def completed(cli: Cli, *arguments: str | Path, stdin: bytes | None = None) -> dict[str, Any]:
    """Return the object that --json prints."""
    outcome = cli("complete", *ARGUMENTS, "--json", *arguments, stdin=stdin)
    assert outcome.code == 0, outcome.err
    told: dict[str, Any] = json.loads(outcome.out)
    return told


def ids(text: str) -> list[int]:
    return list(text.encode())


def test_the_text_alone_is_on_standard_output_and_is_the_same_every_time(cli: Cli) -> None:
    first = cli("complete", *ARGUMENTS, stdin=b"ROMEO:")
    assert first.code == 0
    assert first.err == ""
    assert first.out == completed(cli, stdin=b"ROMEO:")["samples"][0]["text"]
    assert cli("complete", "ROMEO:", *ARGUMENTS) == first


def test_the_prompt_is_an_argument_a_file_or_what_is_piped_in(cli: Cli) -> None:
    Path("prompt.txt").write_bytes("Où?\n".encode())
    assert completed(cli, "Où?", stdin=b"not read")["prompt_token_ids"] == ids("Où?")
    assert completed(cli, "-f", "prompt.txt")["prompt_token_ids"] == ids("Où?")
    assert completed(cli, "-f", "-", stdin=b"a\n\n")["prompt_token_ids"] == ids("a\n")
    assert completed(cli, stdin=b"a\n") == completed(cli, "a")
    assert completed(cli, "--keep-newline", stdin=b"a\n")["prompt_token_ids"] == ids("a\n")
    assert completed(cli, "a\n")["prompt_token_ids"] == ids("a\n")


def test_an_empty_prompt_begins_at_the_end_of_text(cli: Cli) -> None:
    assert completed(cli, stdin=b"")["prompt_token_ids"] == [256]
    assert completed(cli, "")["prompt_token_ids"] == [256]


def test_no_prompt_is_told_and_never_waited_for(cli: Cli) -> None:
    outcome = cli("complete", *ARGUMENTS)
    assert outcome.code == 2
    assert "There is no prompt. Give one:" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "sentence"),
    [
        (["x", "-f", "y"], None, 2, "not both"),
        (["-f", "missing.txt"], None, 2, "missing.txt cannot be read: No such file"),
        ([], b"ab\xffcd", 2, "Standard input is not UTF-8 text: byte 2 is 0xff."),
        (["x", "--json", "--jsonl"], None, 2, "choose one"),
        (["x", "--json", "--echo"], None, 2, "choose one"),
        (["x", "-s", "topk=3"], None, 2, "There is no stage 'topk'. Did you mean 'top_k'?"),
        (["x", "--device", "abacus"], None, 2, "device = abacus"),
        (["x", "--max-new-tokens", "0"], None, 2, "--max-new-tokens"),
        (["x", "-m", "tinny"], None, 3, "Did you mean 'tiny'?"),
        (["x", "-m", "tiny:last"], None, 3, "There is no checkpoint 'tiny:last'"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_an_exit_code(
    cli: Cli, arguments: list[str], stdin: bytes | None, code: int, sentence: str
) -> None:
    outcome = cli("complete", *arguments, stdin=stdin)
    assert outcome.code == code
    assert sentence in outcome.err
    assert outcome.out == ""


def test_a_damaged_checkpoint_is_told(cli: Cli, place: Locations) -> None:
    weights = place.models / "tiny/model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    outcome = cli("complete", "x", "-m", "tiny")
    assert outcome.code == 3
    assert "is damaged" in outcome.err


def test_settings_are_the_defaults_and_flags_go_before_them(cli: Cli, place: Locations) -> None:
    place.settings_file.write_text('checkpoint = "tiny"\nseed = 7\nchain = "top_k=3"\nmax_new_tokens = 4\nsed = 1\n')
    outcome = cli("complete", "x", "--json")
    told = json.loads(outcome.out)
    assert (told["checkpoint"], told["seed"], told["chain"]) == ("tiny", 7, "top_k=3")
    assert len(told["samples"][0]["token_ids"]) == 4
    assert "There is no setting 'sed'" in outcome.err
    assert cli("complete", "x", "--json", "--quiet").err == ""
    told = json.loads(cli("complete", "x", "--json", "-s", "top_k=1", "--seed", "8").out)
    assert (told["chain"], told["seed"]) == ("top_k=1", 8)


def test_without_a_seed_a_new_one_is_taken_and_told(cli: Cli) -> None:
    outcome = cli("complete", "x", "-m", "tiny", "--max-new-tokens", "5", "--json")
    seed = json.loads(outcome.out)["seed"]
    assert outcome.err == f"seed {seed}\n"
    again = cli("complete", "x", "-m", "tiny", "--max-new-tokens", "5", "--json", "--seed", str(seed))
    assert again.out == outcome.out


def test_json_is_one_object_in_the_schema_that_others_script_against(cli: Cli) -> None:
    told = completed(cli, "x", "-n", "2", "-s", "temperature=0.80, top_k=50")
    assert list(told) == ["schema", "checkpoint", "chain", "decoder", "seed", "prompt_token_ids", "samples"]
    assert (told["schema"], told["checkpoint"], told["chain"]) == (1, "tiny", "temperature=0.8,top_k=50")
    assert [sample["seed"] for sample in told["samples"]] == [7, 8]
    for sample in told["samples"]:
        assert list(sample) == ["text", "token_ids", "finish_reason", "seed"]
        assert (len(sample["token_ids"]), sample["finish_reason"]) == (12, "length")


def test_json_lines_are_a_line_a_token_and_one_at_the_end_of_each_sample(cli: Cli) -> None:
    whole = completed(cli, "x", "-n", "2")
    lines = [json.loads(line) for line in cli("complete", *ARGUMENTS, "x", "-n", "2", "--jsonl").out.splitlines()]
    tokens = [line for line in lines if line["event"] == "token"]
    ends = [line for line in lines if line["event"] == "done"]
    assert len(tokens) == 24
    assert {"sample", "index", "id", "text", "p_model", "p_chain"} <= tokens[0].keys()
    assert [(end["sample"], end["finish_reason"]) for end in ends] == [(0, "length"), (1, "length")]
    for number, sample in enumerate(whole["samples"]):
        mine = [token for token in tokens if token["sample"] == number]
        assert [token["id"] for token in mine] == sample["token_ids"]
        assert "".join(token["text"] for token in mine) + ends[number]["text"] == sample["text"]


def test_samples_stand_one_after_the_other_in_order(cli: Cli) -> None:
    texts = [sample["text"] for sample in completed(cli, "x", "-n", "3")["samples"]]
    assert len(set(texts)) == 3
    assert cli("complete", *ARGUMENTS, "x", "-n", "3").out == "\n---\n".join(texts)
    assert cli("complete", *ARGUMENTS, "x", "-n", "3", "-0").out == "".join(text + "\0" for text in texts)
    assert cli("complete", *ARGUMENTS, "x", "-n", "3", "--echo").out == "\n---\n".join("x" + text for text in texts)


def test_a_stop_text_ends_the_completion_and_is_not_part_of_it(cli: Cli) -> None:
    text = cli("complete", *ARGUMENTS, "x").out
    stop = text[4:6]
    stopped = completed(cli, "x", "--stop", stop)["samples"][0]
    assert stopped == stopped | {"text": text[: text.index(stop)], "finish_reason": "stop"}


def test_verbose_tells_what_was_done(cli: Cli) -> None:
    outcome = cli("complete", *ARGUMENTS, "-v", "x", "-s", "top_k=2")
    assert "checkpoint tiny (" in outcome.err
    assert "chain top_k=2; seed 7" in outcome.err
    assert "12 tokens" in outcome.err
    assert "ended by length" in outcome.err


class Pipe(io.StringIO):
    """Tells what has reached the other end."""

    arrived = ""

    def flush(self) -> None:
        self.arrived = self.getvalue()


@pytest.mark.parametrize("make_writer", [lambda pipe: TextWriter(pipe, samples=2), JsonLinesWriter])
def test_every_token_arrives_at_once(make_writer: Callable[[Pipe], Writer]) -> None:
    pipe = Pipe()
    writer = make_writer(pipe)
    for index, text in enumerate(("RO", "ME", "O:")):
        writer.token(Token(0, index, index, 65, text, 0.5, 0.5, 0, 1.0, 0.5, 1.0))
        assert text in pipe.arrived
    writer.finished(Finished(0, "length", "!", 3, 7, 0.1, 0.2))
    assert "!" in pipe.arrived


# --- real processes

ENDLESS = ("complete", "-m", "tiny", "--seed", "7", "--max-new-tokens", "1000000", "--ignore-end-of-text")


def test_a_pipe_streams_and_the_first_interrupt_keeps_what_came(cli: Cli, start: Start) -> None:
    process = start(*ENDLESS, "--jsonl", stdin=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"ROMEO:\n")
    process.stdin.close()
    lines = [process.stdout.readline() for _ in range(3)]  # while it goes on: nothing waits for the end
    process.send_signal(signal.SIGINT)
    lines += process.stdout.readlines()
    assert process.wait(30) == 130
    records = [json.loads(line) for line in lines]
    assert {record["event"] for record in records[:-1]} == {"token"}
    assert records[-1]["finish_reason"] == "cancel"
    assert records[-1]["tokens"] == len(records) - 1
    assert process.stderr
    assert process.stderr.read() == b""
    count = len(records) - 1
    repeated = cli("complete", "ROMEO:", *ENDLESS[1:], "--max-new-tokens", str(count), "--json")
    assert json.loads(repeated.out)["samples"][0]["token_ids"] == [record["id"] for record in records[:-1]]


def test_a_closed_pipe_ends_it_without_a_word(start: Start) -> None:
    process = start(*ENDLESS, "x")
    assert process.stdout
    assert process.stderr
    process.stdout.read(5)
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""


def test_termination_keeps_what_came_as_one_object(start: Start) -> None:
    process = start(*ENDLESS, "x", "--json", "-v")
    assert process.stderr
    while b"checkpoint tiny" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert json.loads(out)["samples"][0]["finish_reason"] == "cancel"


def test_a_terminal_gets_pictures_of_control_characters_a_newline_and_the_numbers(cli: Cli) -> None:
    arguments = ["x", "-m", "tiny", "--seed", "3", "--max-new-tokens", "60", "--ignore-end-of-text"]
    raw = cli("complete", *arguments).out
    assert set(raw) & set(map(chr, range(32))) - set("\n\t"), "the model must write a control character here"
    command = ["-m", "gpt_tui", "complete", *arguments]
    terminal = pexpect.spawn(sys.executable, command, encoding="utf-8", dimensions=(24, 200), timeout=30)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    shown = terminal.before.replace("\r\n", "\n")
    text, _, numbers = shown.removesuffix("\n").rpartition("\n")
    assert "ended by length" in numbers
    assert not set(text) & set(map(chr, [*range(32), 127])) - set("\n\t")
    assert len(text) >= len(raw)


def test_a_pipe_that_stays_silent_is_waited_for_with_a_word() -> None:
    code = "from gpt_tui.cli.prompt_source import read_prompt; print(read_prompt(None, None, False))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, text=True) as process:
        assert process.stderr is not None
        assert "waiting for the prompt" in process.stderr.readline()
        assert process.communicate("late\n", timeout=10)[0] == "late\n"
