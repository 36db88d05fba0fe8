"""gpt-tui engine: the app's other half, for a pipe or an SSH connection to speak to."""

import click


@click.command()
def engine() -> int:
    """Serve the app's wire on standard input and output, a JSON line a message, until input ends.

    The app starts one by itself. On another machine it is reached by: ssh HOST gpt-tui engine.
    """
    from gpt_tui.engine_process import main

    return main()
