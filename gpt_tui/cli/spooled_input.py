"""spooled_input: standard input as a file, for a worker that outlives the pipe."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from gpt_model.errors import DataError
from gpt_model.run_birth import unfinished_directory
from gpt_tui.cli.prompt_source import has_piped_text


@contextlib.contextmanager
def spooled_input(directory: Path) -> Iterator[Path]:
    """Have a file under a directory that holds all of standard input; what is left of it in the end is deleted.

    Raises:
        click.UsageError: standard input is a terminal, or closed.
        DataError: it is empty, or cannot be written down.
    """
    if not has_piped_text():
        raise click.UsageError("There is no text on standard input. Pipe one in: cat *.txt | gpt-tui train -")
    with contextlib.ExitStack() as kept:
        try:
            path = kept.enter_context(unfinished_directory(directory)) / "stdin.txt"
            with path.open("xb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"Standard input cannot be kept in {directory}: {error.strerror or error}.") from error
        if not path.stat().st_size:
            raise DataError("Standard input is empty: there is no text to train on.")
        yield path
