"""What a disk can do to a run: a byte that turns, a file that is gone, no room, no permission. Nothing else is lost."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from run_facts import steps_of, weights_hash

from gpt_model.errors import CheckpointError, DataError
from gpt_model.runs import Run, Status

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]
FILES = ("model.safetensors", "training_state.pt", "config.json", "tokenizer.tiktoken")


def turn_a_byte(file: Path, at: float) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[int(at * (len(damaged) - 1))] ^= 0x01
    file.write_bytes(damaged)


@pytest.fixture
def trained(make_run: MakeRun, train_here: TrainHere) -> Run:
    run = make_run(checkpoint_interval=5, keep_checkpoints=0)
    train_here(run)
    return run


def goes_on_from_the_one_before(run: Run, train_here: TrainHere, expected: str) -> None:
    """Resume a run of 20 steps whose last checkpoint is damaged, and see that nothing is lost by that."""
    others = {step: weights_hash(run, str(step)) for step in (5, 10, 15)}
    before = len(run.read_events()[0])
    assert train_here(run).state == "finished"
    told = run.read_events()[0][before:]
    assert told[0]["kind"] == "fail"
    assert told[0]["message"].startswith("Checkpoint 20 was set aside. ")
    assert [event["step"] for event in told if event["kind"] == "resume"] == [15]
    assert weights_hash(run) == expected
    assert steps_of(run) == [5, 10, 15, 20]
    assert {step: weights_hash(run, str(step)) for step in (5, 10, 15)} == others
    steps = [record["step"] for record in run.read_metrics()[0] if "train_loss" in record]
    assert steps == list(range(1, 21))


@pytest.mark.parametrize("at", [0.0, 0.31, 0.77, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_turned_costs_the_steps_since_the_checkpoint_before(
    trained: Run, train_here: TrainHere, name: str, at: float
) -> None:
    expected = weights_hash(trained)
    turn_a_byte(trained.checkpoint_path("last") / name, at)
    goes_on_from_the_one_before(trained, train_here, expected)


def test_a_manifest_that_is_gone_or_says_something_else_is_no_seal(trained: Run, train_here: TrainHere) -> None:
    expected = weights_hash(trained)
    manifest = trained.checkpoint_path("last") / "MANIFEST.json"
    digest = json.loads(manifest.read_text())["files"]["model.safetensors"]["sha256"]
    turned = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    manifest.write_text(manifest.read_text().replace(digest, turned))
    goes_on_from_the_one_before(trained, train_here, expected)
    (trained.checkpoint_path("last") / "MANIFEST.json").unlink()
    goes_on_from_the_one_before(trained, train_here, expected)


def test_a_byte_of_the_tokens_that_turned_is_mended_from_the_text_or_stops_the_run(
    trained: Run, train_here: TrainHere
) -> None:
    expected, others = weights_hash(trained), weights_hash(trained, "15")
    last = trained.checkpoint_path("last")
    last.rename(last.with_name("put-away"))
    turn_a_byte(trained.directory / "data" / "train.bin", 0.5)
    text = Path(trained.texts[0])
    whole = text.read_text(encoding="utf-8")
    text.write_text(whole.upper(), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DataError, match=r"train\.bin is damaged.*the texts have changed since"):
            train_here(trained)
    assert weights_hash(trained, "15") == others
    (trained.directory / "data" / "data.json").unlink()  # even if somebody takes what would have told
    with pytest.raises(DataError, match="other tokens than those that this run was trained on"):
        train_here(trained)
    text.write_text(whole, encoding="utf-8")
    assert train_here(trained).state == "finished"
    assert weights_hash(trained) == expected


def test_a_disk_that_is_full_or_read_only_costs_no_committed_step(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of his own")
    harness = Path(__file__).parent / "disk_harness.py"
    command = [unshare, "-rm", sys.executable, str(harness), "--troubles", "4", "--seed", "2"]
    done = subprocess.run([*command, "--directory", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["filled"] >= 4
    assert found["checkpoints refused"] > 0


def test_when_none_is_whole_every_start_says_so_and_all_keep_their_names(trained: Run, train_here: TrainHere) -> None:
    for step in steps_of(trained):
        turn_a_byte(trained.checkpoint_path(str(step)) / "model.safetensors", 0.5)
    told = []
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"None of the 4 checkpoints .* Begin a new run\.") as refused:
            train_here(trained)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert steps_of(trained) == [5, 10, 15, 20]
    for step in steps_of(trained):  # as an older version left them
        path = trained.checkpoint_path(str(step))
        path.rename(path.with_name(f"damaged-{path.name}-1"))
    with pytest.raises(CheckpointError, match=r"None of the 4 checkpoints .* set aside as damaged"):
        train_here(trained)


@pytest.mark.parametrize(
    "trouble", [MemoryError(), OSError(errno.EIO, "Input/output error"), RuntimeError("a library")]
)
def test_what_cannot_be_read_just_now_is_not_set_aside(
    trained: Run, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def refuse(*rest: object, **options: object) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr("torch.load", refuse)
        with pytest.raises(CheckpointError, match=r"training_state\.pt cannot be read .*try again"):
            train_here(trained)
    assert steps_of(trained) == [5, 10, 15, 20]
    with monkeypatch.context() as patch:
        if isinstance(trouble, OSError):
            patch.setattr("hashlib.file_digest", refuse)
            with pytest.raises(CheckpointError, match=r"cannot be read: Input/output error\. Nothing was changed"):
                train_here(trained)
    assert steps_of(trained) == [5, 10, 15, 20]
    assert train_here(trained).state == "finished"
    assert not list((trained.directory / "checkpoints").glob("damaged-*"))
