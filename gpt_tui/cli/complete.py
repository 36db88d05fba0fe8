"""gpt-tui complete: a prompt in, text out. Standard output is the text alone; what is told stands on standard error."""

import secrets
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from gpt_model.head_start import begin_opening
from gpt_model.token_record import Finished, Token
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.cli.completion_output import JsonLinesWriter, JsonWriter, TextWriter, Writer
from gpt_tui.cli.interrupts import Interrupts
from gpt_tui.cli.options import json_option, settings_options, tokenizer_option
from gpt_tui.cli.prompt_source import read_prompt
from gpt_tui.decoder_choice import open_decoder
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings


@click.command()
@click.argument("prompt", required=False)
@click.option("-f", "--file", metavar="FILE", help="Read the prompt from a file; - is standard input.")
@settings_options
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, metavar="N", help="Continuations.  [1]")
@click.option("--stop", multiple=True, metavar="TEXT", help="A text that ends the completion; repeatable.  [setting]")
@click.option("--ignore-end-of-text", is_flag=True, help="Go on after the end-of-text token.")
@click.option("--echo", is_flag=True, help="Write the prompt before its completion.")
@click.option("--keep-newline", is_flag=True, help="Keep the newline that ends a file or a pipe.")
@click.option("-0", "--null", is_flag=True, help="End every sample with a NUL instead of parting them by ---.")
@json_option
@click.option("--jsonl", is_flag=True, help="A line of JSON a token, and one at the end of each sample.")
@tokenizer_option
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell more, and the libraries' warnings.")
def complete(
    prompt: str | None, file: str | None, samples: int, stop: tuple[str, ...], ignore_end_of_text: bool, echo: bool,
    keep_newline: bool, null: bool, as_json: bool, jsonl: bool, tokenizer: str | None, quiet: bool, verbose: bool,
    **flags: Any,
) -> int:  # fmt: skip
    """Continue PROMPT, or what -f FILE or a pipe holds, and write the text as it comes.

    A pipe is read when there is no PROMPT. An empty prompt begins a text of the model's own. The first Ctrl-C stops
    at the next token and keeps what came; the second leaves at once.
    """
    if (as_json and jsonl) or ((as_json or jsonl) and (echo or null)):
        raise click.UsageError("--json, --jsonl and the text's own --echo and --null are forms of output: choose one.")
    if verbose:
        warnings.simplefilter("default")
    tell = _silent if quiet else _tell
    text = read_prompt(prompt, file, keep_newline)
    locations = find_locations()
    loaded = load_settings(locations, flags=flags | {"stop": stop or None})
    settings = loaded.settings
    for problem in loaded.problems:
        tell(f"gpt-tui: {problem}")
    seed = secrets.randbelow(2**31) if settings.seed is None else settings.seed
    checkpoint = resolve_checkpoint(settings.checkpoint, locations)

    begin_opening(checkpoint.path, settings.device, settings.dtype)
    from gpt_model.backend import open_model
    from gpt_model.generation import Engine, Request

    opened = open_model(checkpoint.path, settings.device, settings.dtype, settings.threads, tokenizer, tell)
    chosen_tokenizer = opened.with_tokenizer(checkpoint.path)
    if text.endswith(" ") and chosen_tokenizer.name != "bytes":
        tell("The prompt ends with a space; words begin with theirs, so the text is often better without it.")
    if opened.backend.note:
        tell(opened.backend.note)
    engine = Engine(opened.model, chosen_tokenizer)
    chain, decoder = settings.parsed_chain(), open_decoder(settings.decoder, locations)
    ids = tuple(engine.encode(text))
    request = Request(
        ids, chain, seed, samples, settings.max_new_tokens, settings.stop, ignore_end_of_text,
        candidates=10 if jsonl else 1, decoder=decoder,
    )  # fmt: skip
    if settings.seed is None:
        tell(f"seed {seed}")
    writer: Writer
    if jsonl:
        writer = JsonLinesWriter(sys.stdout)
    elif as_json:
        head = {
            "checkpoint": checkpoint.label, "chain": str(chain), "decoder": settings.decoder or "plain", "seed": seed,
            "prompt_token_ids": ids,
        }  # fmt: skip
        writer = JsonWriter(sys.stdout, samples, head)
    else:
        writer = TextWriter(sys.stdout, samples, text if echo else "", null)

    ends: list[Finished] = []
    faults: set[str] = set()
    began = time.perf_counter()
    with Interrupts() as interrupts:
        if verbose:
            how = f"chain {chain}; seed {seed}; decoder {settings.decoder or 'plain'}"
            tell(f"checkpoint {checkpoint.label} ({checkpoint.path}) on {opened.backend}; {how}")
        for event in engine.generate(request, cancel=interrupts.event):
            if isinstance(event, Token):
                writer.token(event)
                for fault in set(event.faults) - faults:
                    tell(fault)
                faults.update(event.faults)
            else:
                writer.finished(event)
                ends.append(event)
        writer.close()
    if verbose or sys.stderr.isatty():
        tell(_statistics(ends, len(ids), time.perf_counter() - began))
    return interrupts.exit_code


def _statistics(ends: list[Finished], prompt_tokens: int, seconds: float) -> str:
    tokens = sum(end.tokens for end in ends)
    reasons = Counter(end.finish_reason for end in ends)
    why = ", ".join(reason if len(ends) == 1 else f"{count} × {reason}" for reason, count in reasons.items())
    reading = ends[0].prompt_seconds
    speed = tokens / max(seconds - reading, 1e-9)
    return f"{tokens} tokens, {speed:.1f} tok/s; prompt {prompt_tokens} tokens in {reading:.2f} s; ended by {why}"


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


_silent: Callable[[str], None] = lambda sentence: None  # noqa: E731
