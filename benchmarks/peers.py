"""GPT-2 decoding beside transformers, CTranslate2 and llama.cpp: the same weights, interleaved processes, medians.

python benchmarks/peers.py [--checkpoint DIR] [--rounds 5] [--what decode,prefill,batch,load,start] [--json FILE]

Every measurement is a process of its own, made anew while others use the machine. Without a checkpoint: a GPT-2 of
124 M random weights. Ratios are to transformers in float32; above 1 is better in every column: more tokens after the
first, less time, less memory. llama.cpp maps its file: most of its loading happens while it warms up.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from peer_quiet import NOISE, least_disturbed
from peer_start import measure_start

HERE = Path(__file__).resolve().parent
BASELINE = "transformers-float32"
WHATS = ("decode", "prefill", "batch", "load", "start")
LONG_PROMPT = 512
FEW = 8  # tokens where the rate is of no interest


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    engine: str
    precision: str
    modules: tuple[str, ...] = ()
    """What must be installed, by the names of imports."""
    packages: str = ""
    """The same, as pip knows it."""
    converted: bool = True
    batches: bool = True

    @property
    def name(self) -> str:
        """How it is called in the table and by --only."""
        return f"{self.engine}-{self.precision}"


_CT2 = (("ctranslate2", "transformers"), "ctranslate2 transformers")
_LLAMA = (("llama_cpp", "gguf", "transformers"), "llama-cpp-python gguf transformers")
VARIANTS = (
    Variant("gpt-tui", "float32", ("gpt_tui",), "-e .", converted=False),
    Variant("gpt-tui", "float16", ("gpt_tui",), "-e .", converted=False),
    Variant("gpt-tui", "int8", ("gpt_tui",), "-e .", converted=False),
    Variant("gpt-tui", "int4", ("gpt_tui",), "-e .", converted=False),
    Variant("transformers", "float32", ("transformers",), "transformers", converted=False),
    Variant("transformers", "bfloat16", ("transformers",), "transformers", converted=False),
    Variant("ctranslate2", "float32", *_CT2),
    Variant("ctranslate2", "int8", *_CT2),
    Variant("llama.cpp", "f32", *_LLAMA, batches=False),
    Variant("llama.cpp", "q8_0", *_LLAMA, batches=False),
    Variant("llama.cpp", "q4_0", *_LLAMA, batches=False),
)


@dataclass(frozen=True)
class Run:
    """What one process is asked to do."""

    prompt_tokens: int
    new_tokens: int
    samples: int = 1


@dataclass(frozen=True)
class Column:
    """What the table shows of a run."""

    title: str
    run: Run
    key: str
    form: str
    scale: float = 1.0
    rising: bool = False
    """More is better."""


@dataclass
class Measured:
    """What came of one variant."""

    rounds: dict[Run, list[dict[str, Any]]] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def median(self, column: Column) -> float | None:
        """Return the middle of what the rounds told."""
        told = [one[column.key] for one in self.rounds.get(column.run, []) if one.get(column.key) is not None]
        return statistics.median(told) * column.scale if told else None


class ChildError(Exception):
    """A process that measured nothing; the message is its last line on standard error."""


class ChildCrash(ChildError):
    """A process that a signal ended."""


class Bench:
    """The processes that measure: their environment and their command lines."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work = work
        self.threads = threads
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
        self.environment = {
            **os.environ,
            **{f"{name}_NUM_THREADS": str(threads) for name in names},
            "CUDA_VISIBLE_DEVICES": "",
            "GPT_TUI_HOME": str(work / "gpt-tui-home"),  # nobody's settings
            "HF_HUB_OFFLINE": "1",
        }
        self.made: dict[str, Any] = {}
        self._without_amx: set[str] = set()
        self._errors: dict[str, dict[str, Any]] = {}

    def prepare(self, checkpoint: Path | None, forms: Sequence[str]) -> Path:
        """Convert the checkpoint, or make a random one, and return it."""
        arguments = [*forms, "--work", str(self.work), *(["--checkpoint", str(checkpoint)] if checkpoint else [])]
        self.made = self._tell([sys.executable, str(HERE / "peer_models.py"), *arguments])
        return Path(self.made["checkpoint"])

    def measure(self, variant: Variant, checkpoint: Path, run: Run, held_against_reference: bool) -> dict[str, Any]:
        """Run one process and return what it tells."""
        asked = ["--prompt-tokens", run.prompt_tokens, "--new-tokens", run.new_tokens, "--samples", run.samples]
        asked += ["--threads", self.threads]
        if variant.engine == "gpt-tui":
            error = self._logit_error(variant, checkpoint) if held_against_reference else {}
            command = [sys.executable, "-m", "gpt_tui", "bench", "decode", "-m", checkpoint]
            chain = "greedy" if run.samples == 1 else "top_k=40,temperature=0.8"
            # One round, as the peers have it: these are the parent's business.
            command += ["--dtype", variant.precision, "--chain", chain, "--rounds", 1]
            return self._tell([*command, *asked, "--json"]) | error
        place = checkpoint
        if variant.converted:
            if variant.name in self.made["failed"]:
                raise ChildError(self.made["failed"][variant.name])
            place = self.made["forms"][variant.name]
        command = [sys.executable, HERE / "peer_engines.py", variant.engine, variant.precision, place, *asked]
        if held_against_reference:
            command += ["--reference", self.made["reference"]]
        if variant.engine != "llama.cpp":
            return self._tell(command)
        if variant.name not in self._without_amx:
            try:
                return self._tell(command)
            except ChildCrash:
                self._without_amx.add(variant.name)
        told = self._tell([*command, "--without-amx"])
        return told | {"note": "this build dies where it uses AMX and runs without, slower (peer_engines.refuse_amx)"}

    def _logit_error(self, variant: Variant, checkpoint: Path) -> dict[str, Any]:
        if variant.name not in self._errors and "reference" in self.made:
            engine = [sys.executable, HERE / "peer_engines.py", variant.engine, variant.precision, checkpoint]
            how = ["--logits-only", "--threads", self.threads, "--reference", self.made["reference"]]
            try:
                self._errors[variant.name] = self._tell([*engine, *how])
            except ChildError as error:
                self._errors[variant.name] = {"note": f"its logits are not known: {error}"}
        return self._errors.get(variant.name, {})

    def _tell(self, command: Sequence[object]) -> dict[str, Any]:
        words = [str(word) for word in command]
        try:
            done = subprocess.run(
                words, env=self.environment, cwd=self.work, capture_output=True, text=True, timeout=1200
            )
        except subprocess.TimeoutExpired:
            raise ChildError("no answer in 20 minutes") from None
        if done.returncode < 0:
            raise ChildCrash(f"ended by signal {-done.returncode}")
        if done.returncode:
            raise ChildError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        try:
            told: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise ChildError("it printed no JSON") from None
        return told


def plan(options: argparse.Namespace, positions: int) -> list[Column]:
    """Return the columns that were asked for; columns of the same run share its process."""
    plain = Run(options.prompt_tokens, options.new_tokens if "decode" in options.what else FEW)
    long = Run(min(LONG_PROMPT, positions - FEW), FEW)
    batch = Run(options.prompt_tokens, options.new_tokens, options.samples)
    time, memory = ("time_to_first_token", ".1f", 1e3), ("peak_rss_bytes", ".0f", 2.0**-20)
    known = {
        "decode": [Column("tok/s", plain, "tokens_per_second", ".1f", rising=True)],
        "prefill": [Column(f"ms, {run.prompt_tokens} read", run, *time) for run in (plain, long)],
        "batch": [Column(f"tok/s of {batch.samples}", batch, "tokens_per_second", ".0f", rising=True)],
        "load": [Column("load s", plain, "load_seconds", ".2f"), Column("peak MiB", plain, *memory)],
        "start": [],
    }
    columns = [column for what in WHATS if what in options.what for column in known[what]]
    if any(column.run == plain for column in columns):
        columns.append(Column("logit_error", plain, "logit_error", ".1e"))
    return columns


def installed(variants: Sequence[Variant]) -> list[Variant]:
    """Return those that can be measured, and tell what the others lack."""
    there = [variant for variant in variants if all(importlib.util.find_spec(name) for name in variant.modules)]
    for engine, packages in dict.fromkeys((v.engine, v.packages) for v in variants if v not in there):
        print(f"{engine} is skipped; to install it: pip install -c constraints.txt {packages}", file=sys.stderr)
    return there


def measure_all(
    bench: Bench, variants: Sequence[Variant], columns: Sequence[Column], checkpoint: Path, rounds: int
) -> dict[str, Measured]:
    """Measure in rounds: what disturbs the machine for a while disturbs every variant."""
    told = {variant.name: Measured() for variant in variants}
    runs = list(dict.fromkeys(column.run for column in columns))
    compared = {column.run for column in columns if column.key == "logit_error"}
    for number in range(1, rounds + 1):
        for variant in variants:
            print(f"round {number} of {rounds}: {variant.name}", file=sys.stderr)
            mine = told[variant.name]
            for run in runs:
                if run in mine.failed or (run.samples > 1 and not variant.batches):
                    continue
                try:
                    measure = partial(bench.measure, variant, checkpoint, run, run in compared)
                    one, others = least_disturbed(measure)
                except ChildError as error:
                    mine.failed[run] = str(error)
                    continue
                mine.rounds.setdefault(run, []).append(one | {"busy_cores_of_others": others})
                mine.notes |= {one[key]: None for key in ("backend", "note") if one.get(key)}
    return told


def table(told: Mapping[str, Measured], columns: Sequence[Column]) -> str:
    """Return the medians, each with its ratio to transformers, and below them what failed."""
    lines = ["".join([f"{'':<21}", *(f"{column.title:>14}" for column in columns)])]
    for name, measured in told.items():
        cells = [_cell(measured, told.get(BASELINE), column) for column in columns]
        lines.append("".join([f"{name:<21}", *(f"{cell:>14}" for cell in cells)]).rstrip())
    for name, measured in told.items():
        lines += [f"{name}: {note}" for note in measured.notes]
        lines += [f"{name}: failed: {why}" for why in dict.fromkeys(measured.failed.values())]
    return "\n".join(lines)


def _cell(measured: Measured, baseline: Measured | None, column: Column) -> str:
    value = measured.median(column)
    if column.run in measured.failed:  # in whichever round
        return "failed"
    if value is None:
        return "–"
    theirs = baseline.median(column) if baseline else None
    if theirs is None or column.key == "logit_error":
        return f"{value:{column.form}}"
    return f"{value:{column.form}} ×{value / theirs if column.rising else theirs / value:5.2f}"


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = {}
    for package in ("gpt-tui", "torch", "transformers", "ctranslate2", "llama-cpp-python"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads, "versions": versions}


def disturbed(told: Mapping[str, Measured]) -> str:
    """Return a sentence about measurements that other processes took part in, empty if there are none."""
    busy = [
        float(one["busy_cores_of_others"])
        for each in told.values()
        for rounds in each.rounds.values()
        for one in rounds
    ]
    loud = [cores for cores in busy if cores > NOISE]
    if not loud:
        return ""
    return f"DISTURBED: in {len(loud)} of {len(busy)} measurements others kept up to {max(loud):.1f} cores busy"


def as_json(told: Mapping[str, Measured], columns: Sequence[Column]) -> dict[str, Any]:
    """Return every round of every variant, and the medians."""
    return {
        name: {
            "median": {f"{c.title} ({c.key})": measured.median(c) for c in columns},
            "runs": [{**asdict(run), "rounds": rounds} for run, rounds in measured.rounds.items()],
            "failed": [{**asdict(run), "why": why} for run, why in measured.failed.items()],
        }
        for name, measured in told.items()
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a GPT-2 as transformers saves it; default: random weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", metavar="NAME,...", help="beginnings of: " + ", ".join(v.name for v in VARIANTS))
    parser.add_argument("--what", metavar="WHAT,...", default="decode,prefill,batch,load", help=", ".join(WHATS))
    parser.add_argument("--work", type=Path, help="where converted checkpoints are kept; default: not kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    options = parser.parse_args()
    options.what = options.what.split(",")
    if unknown := set(options.what) - set(WHATS):
        parser.error(f"--what knows no {', '.join(sorted(unknown))}")
    wanted = tuple((options.only or "").split(","))
    variants = installed([variant for variant in VARIANTS if variant.name.startswith(wanted)])
    if not variants:
        parser.error("there is nothing to measure")

    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work, options.threads)
        checkpoint: Path | None = options.checkpoint.resolve() if options.checkpoint else None
        if importlib.util.find_spec("transformers"):
            print("converting the weights", file=sys.stderr)
            try:
                checkpoint = bench.prepare(checkpoint, [variant.name for variant in variants if variant.converted])
            except ChildError as error:
                sys.exit(f"the weights cannot be prepared: {error}")
        elif not checkpoint:
            parser.error("without transformers, which makes random weights, a --checkpoint is needed")
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        if options.prompt_tokens + options.new_tokens > config["n_positions"]:
            parser.error(f"prompt and new tokens must fit into the model's {config['n_positions']} positions")

        columns = plan(options, config["n_positions"])
        told = measure_all(bench, variants, columns, checkpoint, options.rounds)
        start = measure_start(checkpoint, work, bench.environment, options.rounds) if "start" in options.what else {}
    here = machine(options.threads)
    print(f"{here['processor']}, {here['threads']} of {here['cores']} cores; medians of {options.rounds} rounds")
    print(", ".join(f"{package} {version}" for package, version in here["versions"].items()))
    if columns:
        print(f"\n{table(told, columns)}")
        if warning := disturbed(told):
            print(warning)
    if start:
        print("\nseconds from the shell to the first token")
        for name, seconds in start.items():
            shown = f"{statistics.median(seconds):>8.2f}" if isinstance(seconds, list) else f"  failed: {seconds}"
            print(f"{name:<50}{shown}")
    if options.json:
        everything = {"machine": here, "variants": as_json(told, columns), "start": start}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
