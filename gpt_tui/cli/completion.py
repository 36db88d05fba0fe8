"""gpt-tui completion: what a shell needs to complete commands, checkpoints, runs and stages."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(gpt-tui completion bash)"            in ~/.bashrc
    zsh:  eval "$(gpt-tui completion zsh)"             in ~/.zshrc
    fish: gpt-tui completion fish | source             in ~/.config/fish/config.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(context.find_root().command, {}, "gpt-tui", "_GPT_TUI_COMPLETE").source())
