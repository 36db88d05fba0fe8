"""The command line: what a person types. `main` is the one place that prints errors and maps them to exit codes."""

import errno
import os
import sys
from collections.abc import Sequence

import click

FAILED, USAGE, CHECKPOINT, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141
"""Exit codes beside 0; the root's --help says what they mean."""


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")  # a library's own narration; `complete -v` brings it back
    for stream in (sys.stdout, sys.stderr):
        # Text is UTF-8 in a pipe whatever the locale says; a file's name in no encoding passes as the bytes it is.
        if hasattr(stream, "reconfigure"):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace" if stream.isatty() else "surrogateescape")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what was expected to go wrong is told on standard error."""
    from gpt_tui.cli.root import root

    try:
        code = root.main(list(arguments), prog_name="gpt-tui", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code or 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # click's own answer to a closed pipe
            return _pipe_closed()
        raise
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _pipe_closed()
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        return _tell(f"The output cannot be written: {error.strerror}.", FAILED)
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


def _pipe_closed() -> int:
    """Point standard output elsewhere, so that the interpreter's last flush is silent too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return PIPE_CLOSED
