"""Where a prompt comes from: the argument, a file, or what is piped in. Never waits for a person without a word."""

import contextlib
import os
import select
import stat
import sys
from pathlib import Path

import click


def has_piped_text() -> bool:
    """Return whether standard input is a pipe, a file or a socket: something that was put there to be read."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or no real file
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read_prompt(argument: str | None, file: str | None, keep_newline: bool) -> str:
    """Return the prompt as it was given; exactly one newline at the end of a file or a pipe is left out.

    Raises:
        click.UsageError: none was given, or two, or it is not UTF-8.
    """
    if argument is not None and file is not None:
        raise click.UsageError("Give the prompt as an argument or with -f, not both.")
    if argument is not None:
        return decode_prompt(os.fsencode(argument), "The prompt", keep_newline=True)
    if file is None and not has_piped_text():
        raise click.UsageError(
            "There is no prompt. Give one: gpt-tui complete 'ROMEO:', -f FILE, or pipe it in (-f - reads the terminal)."
        )
    if file in (None, "-"):
        return decode_prompt(_read_input(), "Standard input", keep_newline)
    assert file is not None
    try:
        return decode_prompt(Path(file).read_bytes(), file, keep_newline)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror or error}.") from error


def _read_input() -> bytes:
    """Return all of standard input; when it stays silent for a second, say what is being waited for."""
    with contextlib.suppress(OSError, ValueError):  # no real file, which cannot keep one waiting
        if not select.select([sys.stdin], [], [], 1.0)[0]:
            click.echo("gpt-tui: waiting for the prompt on standard input; Ctrl-C ends it.", err=True)
    return sys.stdin.buffer.read()


def decode_prompt(raw: bytes, source: str, keep_newline: bool = False) -> str:
    """Return the text of a prompt's bytes.

    Raises:
        click.UsageError: they are not UTF-8; the byte is in the message.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}.") from None
    return text if keep_newline else text.removesuffix("\n")
