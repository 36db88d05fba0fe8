"""gpt-tui samplers explain: what a chain does to the next token of a text, stage by stage. Shows a Token's record."""

import math
import os
import secrets
import shutil
import sys

import click

from gpt_model.token_record import Account, Candidate, Token
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import complete_chain, complete_checkpoint, json_option
from gpt_tui.cli.table import format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import check_setting, load_settings

_BIT = math.log(2)
_ACCENT = "yellow"
_WIDEST = 110
"""Columns beyond which lines are harder to read, not easier."""


@click.command()
@click.argument("chain", shell_complete=complete_chain)
@click.argument("text")
@click.option("-m", "--checkpoint", metavar="CHECKPOINT", shell_complete=complete_checkpoint, help="[setting]")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the draw.  [setting, else a new one]")
@click.option("--top", type=click.IntRange(1, 1000), default=10, metavar="N", help="Tokens that are shown.  [10]")
@json_option
def explain(chain: str, text: str, checkpoint: str | None, seed: int | None, top: int, as_json: bool) -> None:
    """Show what CHAIN makes of the model's next token after TEXT: what each stage keeps and cuts, and the draw.

    CHAIN is stages, such as top_k=40,temperature=0.8, or a preset's name.
    """
    locations = find_locations()
    loaded = load_settings(locations, flags={"checkpoint": checkpoint, "seed": seed})
    settings = loaded.settings
    for problem in loaded.problems:
        click.echo(f"gpt-tui: {problem}", err=True)
    check_setting("chain", chain, settings.presets)
    opened_at = resolve_checkpoint(settings.checkpoint, locations)

    from gpt_model.backend import open_model
    from gpt_model.generation import Engine, Request
    from samplers import named_chain

    opened = open_model(opened_at.path, settings.device, settings.dtype, settings.threads)
    engine = Engine(opened.model, opened.with_tokenizer(opened_at.path))
    luck = secrets.randbelow(2**31) if settings.seed is None else settings.seed
    stages = named_chain(chain, settings.presets)
    ids = tuple(engine.encode(text))
    request = Request(ids, stages, luck, 1, 1, candidates=top, account=True, ignore_end_of_text=True)
    events = list(engine.generate(request))
    token = next(event for event in events if isinstance(event, Token))
    if as_json:
        head = {"checkpoint": opened_at.label, "seed": luck, "prompt_token_ids": ids}
        click.echo(to_json({"schema": 1} | head | token.to_dict() | {"chain": str(stages)}, indent=2))
        return
    for fault in token.faults:
        click.echo(f"gpt-tui: {fault}", err=True)
    label = engine.tokenizer.decode([token.id]) if engine.tokenizer else ""
    terminal = sys.stdout.isatty()
    title = f"{opened_at.label}, {len(ids)} tokens, seed {luck}"
    lines = [title, "", _stage_table(token, opened.model.config.vocab_size), ""]
    lines += [_bars(token) if terminal else _candidate_table(token), ""]
    lines.append(
        f"u {token.uniform:.4f} draws {_quoted(label)}: p {token.p_model:.4f} → {token.p_chain:.4f}, "
        f"rank {token.rank + 1:,}"
    )
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.echo("\n".join(lines), color=terminal and not plain)


def _stage_table(token: Token, vocab_size: int) -> str:
    """Return a line for the model and one for each stage, off ones too."""
    header = ["stage", "kept", "mass", "bits", "cut at z", "ms", "cuts"]
    rows = [["model", f"{vocab_size:,}", "1.0000", f"{token.entropy / _BIT:.2f}", "", "", ""]]
    rows += [_stage_row(each, token) for each in token.accounts]
    return format_table(header, rows, right=(1, 2, 3, 4, 5))


def _stage_row(account: Account, token: Token) -> list[str]:
    if account.off:
        return [account.stage, "off", "", "", "", "", ""]
    cut = [_quoted(each.text) for each in token.candidates if each.id in account.cut]
    more = f" and {len(cut) - 3} more of the top {len(token.candidates)}" if len(cut) > 3 else ""
    return [
        account.stage, f"{account.kept:,}", f"{account.mass:.4f}", f"{account.entropy / _BIT:.2f}",
        "" if account.threshold is None else f"{account.threshold:.3f}", f"{account.milliseconds:.2f}",
        " ".join(cut[:3]) + more,
    ]  # fmt: skip


def _candidate_table(token: Token) -> str:
    """Return the candidates as a plain table, for pipes."""
    rows = [
        [
            str(rank), str(each.id), _quoted(each.text), f"{each.p_model:.6f}", f"{each.p_chain:.6f}",
            _state(each, token),
        ]
        for rank, each in enumerate(token.candidates, start=1)
    ]  # fmt: skip
    return format_table(["rank", "id", "token", "model", "chain", ""], rows, right=(0, 1, 3, 4))


def _bars(token: Token) -> str:
    """Return the candidates with a bar before the chain and one after it, on one scale, as wide as the terminal."""
    from rich.cells import set_cell_size

    from gpt_tui.widgets.funnel import bar, share
    from gpt_tui.widgets.visible_text import token_label

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    label = 16 if width >= 60 else 10
    state = max((len(_state(each, token)) for each in token.candidates), default=0)
    cells = max((width - label - 2 * 6 - state - 3) // 2, 4)
    most = max((max(each.p_model, each.p_chain) for each in token.candidates), default=1.0)
    lines = [f"{'':{label}}  {'model':{cells + 6}}chain"]
    for each in token.candidates:
        drawn = each.id == token.id
        name = set_cell_size(token_label(each.text), label)
        before = f"{bar(each.p_model / most, cells):{cells}} {share(each.p_model)} "
        after = f"{bar(each.p_chain / most, cells):{cells}} {share(each.p_chain)} "
        lines.append(
            click.style(name, fg=_ACCENT if drawn else None, bold=drawn, dim=bool(each.cut_by))
            + "  "
            + click.style(before, dim=True)
            + (click.style(f"{'·':{cells + 6}}", dim=True) if each.cut_by else click.style(after, fg=_ACCENT))
            + click.style(_state(each, token), dim=not drawn, bold=drawn)
        )
    return "\n".join(line.rstrip() for line in lines)


def _state(candidate: Candidate, token: Token) -> str:
    return f"cut: {candidate.cut_by}" if candidate.cut_by else "drawn" if candidate.id == token.id else ""


def _quoted(text: str) -> str:
    """Return a token's text as one word that shows its spaces and newlines, and commands no terminal."""
    from gpt_tui.widgets.visible_text import token_label

    return token_label(text)
