"""gpt-tui web: the completion page for a browser."""

import shlex
from typing import Any

import click

from gpt_model.errors import ConfigError
from gpt_tui.cli.options import settings_options
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings


@click.command()
@settings_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="0 takes a free one.")
def web(host: str, port: int, **flags: Any) -> None:
    """Serve the completion page for a browser, on this machine only unless --host says otherwise."""
    try:
        from aiohttp import web as server
    except ImportError as error:
        raise ConfigError("The web page needs one more package: pip install 'gpt-tui[web]'.") from error

    from gpt_tui.web import WebPage

    locations = find_locations()
    loaded = load_settings(locations, flags=flags)
    for problem in loaded.problems:
        click.echo(f"gpt-tui: {problem}", err=True)
    page = WebPage(loaded.settings, locations.state / "web-engine.log", shlex.split(loaded.settings.engine))
    try:
        server.run_app(page.application(), host=host, port=port, print=lambda line: click.echo(line, err=True))
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror or error}.") from error
