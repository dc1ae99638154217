"""`quantfl serve`: the live page of a run's folder."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from quantfl.cli import complete

HOST = typer.Option(
    "127.0.0.1", "--host", help="Address to listen at; others than loopback need the token to read, too."
)
PORT = typer.Option(8421, "--page-port", min=0, max=65535, help="Port of the page; 0: any that is free.")


def command(
    run: Path = typer.Argument(..., help="Folder of a run, finished or not.", autocompletion=complete.runs),
    host: str = HOST,
    port: int = PORT,
) -> int:
    """Show RUN as a page in a browser, also while another process runs it. It only watches: a run is steered
    from the page of `quantfl run --live`. Ctrl-C ends the serving."""
    from quantfl.report.page.server import PageServer, is_loopback
    from quantfl.report.page.state import FolderState

    with PageServer(FolderState(run), host=host, port=port) as page:
        print(page.address if is_loopback(host) else page.url, flush=True)
        try:
            while True:
                time.sleep(0.5)
        except KeyboardInterrupt:
            return 0
