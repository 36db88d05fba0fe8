"""spooled_input: standard input as a file, for a worker that outlives the pipe."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gpt_model.errors import DataError
from gpt_tui.cli.prompt_source import has_piped_text


@contextmanager
def spooled_input(directory: Path) -> Iterator[Path]:
    """Have a file under a directory that holds all of standard input; what is left of it in the end is deleted.

    Raises:
        click.UsageError: standard input is a terminal, or closed.
        DataError: it is empty, or cannot be written down.
    """
    if not has_piped_text():
        raise click.UsageError("There is no text on standard input. Pipe one in: cat *.txt | gpt-tui train -")
    path = directory / f".stdin-{os.getpid()}.txt"
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"Standard input cannot be kept in {path}: {error.strerror or error}.") from error
        if not path.stat().st_size:
            raise DataError("Standard input is empty: there is no text to train on.")
        yield path
    finally:
        path.unlink(missing_ok=True)
