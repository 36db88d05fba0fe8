"""One peer, measured once in a process of its own; it prints what `gpt-tui bench decode --json` prints.

python benchmarks/peer_engines.py ENGINE PRECISION PATH --prompt-tokens P --new-tokens N --samples S --threads T
"""

import argparse
import contextlib
import ctypes
import importlib
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

REFERENCE_TOKENS = 32
TOP_K, TEMPERATURE = 40, 0.8  # where several samples are drawn; one sample is greedy


class Peer(Protocol):
    """Another program that generates text. Making one imports its library; nothing else is loaded before `load`."""

    vocab_size: int

    def load(self, path: Path, threads: int) -> None:
        """Read the model."""

    def generate(self, prompt: list[int], count: int, samples: int) -> int:
        """Continue the prompt by `count` tokens, never stopping earlier; return how many tokens were written."""

    def logits(self, prompt: list[int]) -> Any:
        """Return the logits of the token after the prompt."""


class GptTui:
    """Ours, for its logits alone: `gpt-tui bench decode` measures the rest. To open it packs and compiles it too."""

    def __init__(self, precision: str) -> None:
        self.torch = importlib.import_module("torch")
        self.open_model = importlib.import_module("gpt_model.backend").open_model
        self.precision = precision

    def load(self, path: Path, threads: int) -> None:
        self.model = self.open_model(path, "cpu", self.precision, threads).model
        self.vocab_size = self.model.config.vocab_size

    def generate(self, prompt: list[int], count: int, samples: int) -> int:
        raise NotImplementedError

    def logits(self, prompt: list[int]) -> Any:
        with self.torch.inference_mode():
            return self.model.next_logits(self.torch.tensor([prompt]))[0].float().numpy()


class Transformers:
    """Hugging Face's generate, as it comes."""

    def __init__(self, precision: str) -> None:
        self.torch = importlib.import_module("torch")
        self.library = importlib.import_module("transformers")
        self.dtype = getattr(self.torch, precision)
        self.kind = self.library.GPT2LMHeadModel  # imports a good deal: not a part of loading
        self.library.utils.logging.set_verbosity_error()
        self.library.utils.logging.disable_progress_bar()

    def load(self, path: Path, threads: int) -> None:
        self.torch.set_num_threads(threads)
        self.model = self.kind.from_pretrained(path, dtype=self.dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.vocab_size = self.model.config.vocab_size

    def generate(self, prompt: list[int], count: int, samples: int) -> int:
        ids = self.torch.tensor([prompt])
        how: dict[str, Any] = {"do_sample": False}
        if samples > 1:
            how = {"do_sample": True, "top_k": TOP_K, "temperature": TEMPERATURE, "num_return_sequences": samples}
        with self.torch.inference_mode():
            whole = self.model.generate(
                ids, attention_mask=self.torch.ones_like(ids), max_new_tokens=count, pad_token_id=0, **how
            )
        return int(whole.shape[0] * (whole.shape[1] - len(prompt)))

    def logits(self, prompt: list[int]) -> Any:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([prompt])).logits[0, -1].float().numpy()


class CTranslate2:
    """OpenNMT's engine in C++; its words are ids in angle brackets."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.library = importlib.import_module("ctranslate2")

    def load(self, path: Path, threads: int) -> None:
        self.generator = self.library.Generator(
            str(path), device="cpu", compute_type=self.precision, inter_threads=1, intra_threads=threads
        )
        words = json.loads((path / "vocabulary.json").read_text(encoding="utf-8"))
        self.vocab_size = len(words)

    def generate(self, prompt: list[int], count: int, samples: int) -> int:
        how: dict[str, Any] = {"sampling_topk": 1}
        if samples > 1:
            how = {"sampling_topk": TOP_K, "sampling_temperature": TEMPERATURE}
        written = self.generator.generate_batch(
            [[f"<{i}>" for i in prompt]] * samples,
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,  # the prompt is read at once
            **how,
        )
        return sum(len(one.sequences_ids[0]) for one in written)

    def logits(self, prompt: list[int]) -> Any:
        import numpy as np

        return np.array(self.generator.forward_batch([prompt]))[0, -1]


class LlamaCpp:
    """llama.cpp by its C functions: the Python of its `Llama` class would cost it a part of its speed."""

    def __init__(self, precision: str) -> None:
        self.library = importlib.import_module("llama_cpp")
        # Kept: the library calls it as long as it lives.
        self._silence = self.library.llama_log_callback(lambda *_: None)
        self.library.llama_log_set(self._silence, ctypes.c_void_p(0))
        self.library.llama_backend_init()

    def load(self, path: Path, threads: int) -> None:
        llama = self.library
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {path.name}")
        options = llama.llama_context_default_params()
        options.n_ctx = llama.llama_model_n_ctx_train(self.model)
        options.n_threads = options.n_threads_batch = threads
        self.context = llama.llama_init_from_model(self.model, options)
        self.greedy = llama.llama_sampler_init_greedy()
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def generate(self, prompt: list[int], count: int, samples: int) -> int:
        if samples > 1:
            raise ValueError("several samples at once are not measured for llama.cpp")
        self._start(prompt)
        newest = (ctypes.c_int32 * 1)()
        for written in range(1, count + 1):
            newest[0] = self.library.llama_sampler_sample(self.greedy, self.context, -1)
            if written < count:
                self._read(newest)
        return written

    def logits(self, prompt: list[int]) -> Any:
        import numpy as np

        self._start(prompt)
        return np.ctypeslib.as_array(self.library.llama_get_logits_ith(self.context, -1), (self.vocab_size,)).copy()

    def _start(self, prompt: list[int]) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self._read((ctypes.c_int32 * len(prompt))(*prompt))

    def _read(self, ids: Any) -> None:
        if self.library.llama_decode(self.context, self.library.llama_batch_get_one(ids, len(ids))) != 0:
            raise ValueError("llama.cpp cannot read these tokens")


PEERS: dict[str, Callable[[str], Peer]] = {
    "gpt-tui": GptTui,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
}


def prompt_ids(vocab_size: int, count: int) -> list[int]:
    """Return the prompt: always the same ids, and not the last of the vocabulary, which ends a text."""
    draws = random.Random(1)
    return [draws.randrange(vocab_size - 1) for _ in range(count)]


def refuse_amx() -> None:
    """Make Linux refuse this process the tiles of AMX: it grants them only where signal stacks have room for them.

    Built by gcc 12, llama.cpp dies where it sets up AMX's tiles (ggml-org/llama.cpp#20824): the compiler drops the
    stores of their shapes. CMAKE_ARGS="-DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'" builds one that lives, half as fast
    again; LLAMA_CPP_LIB_PATH names the directory of its libraries, if it is not the one that is installed. This is for
    where it is not at hand. `use_extra_bufts = False` would take away the other forms of repacked weights as well.
    """

    class Stack(ctypes.Structure):
        _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    room = ctypes.create_string_buffer(8192)
    _KEPT.append(room)
    ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(room), 0, len(room))), None)


_KEPT: list[Any] = []


def peak_rss() -> int:
    """Return the bytes of memory that this process has held at most, files that it maps included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(peer: Peer, path: Path, prompt_tokens: int, new_tokens: int, samples: int, threads: int) -> dict[str, Any]:
    """Load, warm up and measure. The rate is that after the first token, as ours counts it."""
    began = time.perf_counter()
    peer.load(path, threads)
    load_seconds = time.perf_counter() - began
    prompt = prompt_ids(peer.vocab_size, prompt_tokens)

    def seconds(count: int, samples: int) -> float:
        began = time.perf_counter()
        written = peer.generate(prompt, count, samples)
        if written != count * samples:
            raise ValueError(f"{written} tokens were written, not {count * samples}")
        return time.perf_counter() - began

    seconds(min(new_tokens, 8), samples)
    first = statistics.median(seconds(1, samples) for _ in range(3))
    rate = (new_tokens - 1) * samples / (seconds(new_tokens, samples) - first)
    told = {"load_seconds": load_seconds, "time_to_first_token": first, "tokens_per_second": rate}
    return told | {"peak_rss_bytes": peak_rss()}


def logit_error(peer: Peer, reference: Path) -> float:
    """Return how far the logits after a prompt are from those of transformers in float32, as a part of their norm."""
    import numpy as np

    expected = np.load(reference)
    found = np.asarray(peer.logits(prompt_ids(peer.vocab_size, REFERENCE_TOKENS)), np.float32)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def main() -> None:
    """Measure one peer and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=PEERS)
    parser.add_argument("precision")
    parser.add_argument("path", type=Path)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--logits-only", action="store_true")
    parser.add_argument("--without-amx", action="store_true")
    parser.add_argument("--reference", type=Path, help="logits of transformers, as peer_models.py saves them")
    options = parser.parse_args()
    if options.without_amx:
        refuse_amx()
    with contextlib.redirect_stdout(sys.stderr):  # a library's narration
        peer = PEERS[options.engine](options.precision)
        if options.logits_only:
            peer.load(options.path, options.threads)
            told = {}
        else:
            asked = options.prompt_tokens, options.new_tokens, options.samples
            told = measure(peer, options.path, *asked, options.threads)
        if options.reference:
            told["logit_error"] = logit_error(peer, options.reference)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
