"""The forms in which the peers want a checkpoint: made once for a benchmark, from the same float32 weights.

python benchmarks/peer_models.py --work DIR [--checkpoint DIR] [FORM ...]

Prints one JSON object: the checkpoint, its forms, and of each form that could not be made, why. peers.py runs it in a
process of its own, because a process that once held much is, for getrusage, the least that its children ever held.
"""

import argparse
import contextlib
import copy
import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peer_engines import REFERENCE_TOKENS, prompt_ids

FORMS = ("ctranslate2-float32", "ctranslate2-int8", "llama.cpp-f32", "llama.cpp-q8_0", "llama.cpp-q4_0")

_BLOCK = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
"""transformers' names of a block's parts, and llama.cpp's."""


class _Words:
    """What CTranslate2's converter asks of a tokenizer: ids that are spelled "<id>"."""

    def __init__(self, config: Any) -> None:
        self._size = int(config.vocab_size)
        end = config.eos_token_id if config.eos_token_id is not None else self._size - 1
        self.bos_token = self.eos_token = self.unk_token = f"<{end}>"

    def get_vocab(self) -> dict[str, int]:
        """Return every word with its id."""
        return {f"<{i}>": i for i in range(self._size)}


def random_checkpoint(directory: Path) -> Path:
    """Return a directory with a GPT-2 of 124 M parameters whose weights are random, always the same ones."""
    if not (directory / "model.safetensors").exists():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(directory)
    return directory


def load_model(checkpoint: Path) -> Any:
    """Return the model in float32, whatever it is stored in."""
    narration: Any = transformers.utils.logging
    narration.set_verbosity_error()
    narration.disable_progress_bar()
    model: Any = transformers.GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


def forms_directory(work: Path, checkpoint: Path) -> Path:
    """Return where the forms of these very weights are kept."""
    weights = (checkpoint / "model.safetensors").stat()
    return work / f"{checkpoint.resolve().name}-{weights.st_size}-{weights.st_mtime_ns}"


def save_reference(model: Any, path: Path) -> None:
    """Write the logits that every form is held against."""
    ids = torch.tensor([prompt_ids(model.config.vocab_size, REFERENCE_TOKENS)])
    with torch.inference_mode():
        np.save(path, model(ids).logits[0, -1].float().numpy())


def make_form(form: str, model: Any, forms: Path) -> Path:
    """Write one form beside the others, if it is not there yet, and return its place."""
    engine, precision = form.rsplit("-", 1)
    place = forms / form if engine == "ctranslate2" else forms / f"{form}.gguf"
    if place.exists():
        return place
    unfinished = place.with_name(f"unfinished-{place.name}")
    if engine == "ctranslate2":
        shutil.rmtree(unfinished, ignore_errors=True)
        save_ctranslate2(model, unfinished, precision)
    elif precision == "f32":
        save_gguf(model, unfinished)
    else:
        quantize_gguf(make_form("llama.cpp-f32", model, forms), unfinished, precision)
    unfinished.rename(place)
    return place


def save_ctranslate2(model: Any, directory: Path, precision: str) -> None:
    """Write the model as CTranslate2 reads it."""
    converters = importlib.import_module("ctranslate2.converters")

    class Converter(converters.TransformersConverter):  # type: ignore[misc, name-defined]
        """The library's own converter, with our float32 model and words for ids."""

        def load_model(self, *_: Any, **__: Any) -> Any:
            return copy.deepcopy(model)  # the converter quantizes in place

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return _Words(model.config)

    Converter(model.name_or_path).convert(str(directory), quantization=precision)


def save_gguf(model: Any, path: Path) -> None:
    """Write the model as llama.cpp reads it, in float32 and without a tokenizer."""
    gguf = importlib.import_module("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    for name, tensor in model.transformer.state_dict().items():
        # Conv1D keeps (in, out), ggml (out, in). There is no output.weight: llama.cpp uses token_embd again.
        weights = tensor.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(weights.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    part, kind = name.rsplit(".", 1)
    if part.startswith("h."):
        _, layer, part = part.split(".", 2)
        return f"blk.{layer}.{_BLOCK[part]}.{kind}"
    return f"{ {'wte': 'token_embd', 'wpe': 'position_embd', 'ln_f': 'output_norm'}[part] }.{kind}"


def quantize_gguf(source: Path, path: Path, precision: str) -> None:
    """Write what `llama-quantize` writes by default: not every matrix of a q4_0 file has four bits."""
    llama = importlib.import_module("llama_cpp")
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{precision.upper()}")
    if llama.llama_model_quantize(str(source).encode(), str(path).encode(), options) != 0:
        raise ValueError("llama.cpp cannot quantize it")


def main() -> None:
    """Make the forms and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forms", nargs="*", metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()

    checkpoint = options.checkpoint or random_checkpoint(options.work / "gpt2-random")
    forms = forms_directory(options.work, checkpoint)
    forms.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"checkpoint": str(checkpoint), "reference": str(forms / "reference.npy")}
    told |= {"forms": {}, "failed": {}}
    with contextlib.redirect_stdout(sys.stderr):
        model = load_model(checkpoint)
        save_reference(model, forms / "reference.npy")
        for form in options.forms:
            try:
                told["forms"][form] = str(make_form(form, model, forms))
            except Exception as error:  # a library's own, of any kind: the others can be measured without it
                told["failed"][form] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))


if __name__ == "__main__":
    main()
