"""The command line: what a person types. `main` is the one place that prints errors and maps them to exit codes."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import IO

import click

FAILED, USAGE, CHECKPOINT, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141
"""Exit codes beside 0; the root's --help says what they mean."""


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")  # a library's own narration; `complete -v` brings it back
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # started with it closed
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
        elif mode == "w":
            # A pipe gets UTF-8 whatever the locale says, and a file's name in no encoding as the bytes that it is.
            terminal = stream.isatty()
            stream.reconfigure(
                encoding=None if terminal else "utf-8", errors="replace" if terminal else "surrogateescape"
            )
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what was expected to go wrong is told on standard error."""
    from gpt_tui.cli.root import root

    if instruction := os.environ.get("_GPT_TUI_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, "gpt-tui", "_GPT_TUI_COMPLETE", instruction)
    try:
        code = _carry_out(root, arguments)
        sys.stdout.flush()
        return code
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        # What is written elsewhere cannot fail again, neither the sentence nor the interpreter's last flush.
        _point_elsewhere(sys.stdout)
        if error.errno == errno.EPIPE:
            return PIPE_CLOSED
        try:
            return _tell(f"The output cannot be written: {error.strerror}.", FAILED)
        except OSError:
            _point_elsewhere(sys.stderr)
            return FAILED


def _carry_out(root: click.Group, arguments: Sequence[str]) -> int:
    try:
        # Not `root.main`, which has an answer of its own to a closed pipe, another one in each version of click.
        with root.make_context("gpt-tui", list(arguments)) as context:
            code: int | None = root.invoke(context)
        return code or 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt, EOFError):
        click.echo(err=True)  # behind the ^C that the terminal shows
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OSError:
        raise
    except Exception as error:
        expected = _exit_code(error)
        if expected is None:
            raise
        return _tell(str(error), expected)


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an expected error; None for a bug. Imported here: a run without errors pays nothing."""
    from gpt_model.errors import CheckpointError, GenerationError, GptError, RunError
    from samplers import ChainError

    if isinstance(error, CheckpointError):
        return CHECKPOINT
    if isinstance(error, RunError | GenerationError):
        return FAILED
    return USAGE if isinstance(error, GptError | ChainError) else None


def _tell(sentence: str, code: int) -> int:
    click.echo(f"gpt-tui: {sentence}", err=True)
    return code


def _point_elsewhere(stream: IO[str]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
