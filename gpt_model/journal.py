"""Files that others read while they are written: append-only JSON lines, and files replaced whole. Knows no run."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of JSON lines, one write a line, so that no reader ever sees two halves mixed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")  # a writer was killed in mid-line; readers skip what does not parse
        except OSError:
            self.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record; numbers that are not finite become "nan", "inf" and "-inf", so that it stays JSON.

        Raises:
            OSError: the line could not be written whole; nothing of it is left then.
        """
        values = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        line = json.dumps(values, ensure_ascii=False, allow_nan=False).encode(errors="replace") + b"\n"
        written = os.write(self._file, line)
        if written < len(line):
            # Whatever lacks only its end would count as a line once there is room for that, and then stand twice.
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a disk over a network tells only now that it is full; the file is closed
            os.close(self._file)


def read_records(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte offset on, and the offset where the next read begins.

    A last line that is not terminated yet is left for next time; a line that does not parse is skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except FileNotFoundError:
        return [], offset
    whole = block.rfind(b"\n") + 1
    records = []
    for line in block[:whole].splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records, offset + whole


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file so that a reader sees the old text or the new one, whole.

    `durable` also waits for the disk, for what must survive the loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sweep_temporaries(directory: Path) -> None:
    """Delete what `write_atomically` left in a directory when it was killed. For its only writer."""
    for path in directory.glob(".*.json.*"):
        path.unlink(missing_ok=True)
