"""What the upper storey's tests share."""

from pathlib import Path

import pytest
from shared_cache import share_cache

from gpt_tui.locations import Locations, find_locations


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random model of bytes: 1 layer, width 16, 64 positions."""
    import torch

    from gpt_model.checkpoint import save_checkpoint
    from gpt_model.config import ModelConfig
    from gpt_model.model import GPT
    from gpt_model.tokenizer import build_tokenizer

    torch.manual_seed(1)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=64, vocab_size=257))
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(path, model, build_tokenizer("bytes"))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locations:
    """A home of the test's own, under GPT_TUI_HOME; the working directory is empty."""
    for name in ("GPT_TUI_CHAIN", "GPT_TUI_CHECKPOINT", "SSH_CONNECTION", "TMUX", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPT_TUI_HOME", str(tmp_path / "home"))
    share_cache(tmp_path / "home")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return find_locations()
