"""The page's server: Starlette and uvicorn, server-sent events, one process, no build step (extra [live]).

Reading is open to this machine. Steering needs the token, which is new for every start and part of the URL
that is printed, behind `#`: browsers send nothing of that to a server. The page sends the token in the header
`Authorization`. Where the page is bound to another address than loopback, reading needs the token too. There
only, `/events` takes it from the query, because browsers send no such header with an EventSource. This server
keeps no log of requests; a proxy before it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantfl.errors import ToolError, UsageError
from quantfl.fleet.steering import Steering
from quantfl.report.page.state import FolderState, RunState, to_text

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

ASSETS = Path(__file__).parent / "assets"
UPDATE_S = 0.25  # between two updates of a page: at most four a second
BEAT_S = 10.0  # a comment, so that a dead line is noticed
DEFAULT_PORT = 8421
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine only."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def application(state: RunState, *, token: str, host: str, steering: Steering | None = None) -> Starlette:
    """The web application. steering: None, the run cannot be steered from here."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    open_to_all = is_loopback(host)

    def known(request: Request, *, query: bool = False) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if query:
            given = given or request.query_params.get("token", "")
        return secrets.compare_digest(given.encode(), token.encode())

    def refused(text: str, status: int) -> Response:
        return JSONResponse({"error": text}, status, headers=_SAFE)

    async def asset(request: Request) -> Response:
        path = ASSETS / request.path_params.get("name", "index.html")
        if path.parent != ASSETS or not path.is_file():
            return PlainTextResponse("there is no such page", 404, headers=_SAFE)
        headers = _SAFE | {"Content-Type": f"{_TYPES[path.suffix]}; charset=utf-8"}
        return PlainTextResponse(path.read_text(encoding="utf-8"), headers=headers)

    async def events(request: Request) -> Response:
        if not open_to_all and not known(request, query=True):
            return refused("the token is missing or wrong", 401)
        return StreamingResponse(_events(state), media_type="text/event-stream", headers=_SAFE)

    async def traffic(request: Request) -> Response:
        if not open_to_all and not known(request):
            return refused("the token is missing or wrong", 401)
        return PlainTextResponse(
            to_text(state.bytes_of()), headers=_SAFE | {"Content-Type": "application/json"}
        )

    async def control(request: Request) -> Response:
        if not known(request):
            return refused("the token is missing or wrong", 401)
        if steering is None:
            return refused("this page only watches; steer the run where it runs", 409)
        what, board = request.path_params["what"], request.query_params.get("board", "")
        answer = _steer(steering, state, what, board)
        return refused(answer, 400) if answer else JSONResponse({"done": what}, headers=_SAFE)

    hosts = ["localhost", "127.0.0.1", "[::1]", "::1", host, f"[{host}]"] if open_to_all else ["*"]
    return Starlette(
        routes=[
            Route("/", asset),
            Route("/assets/{name}", asset),
            Route("/events", events),
            Route("/traffic", traffic),
            Route("/control/{what}", control, methods=["POST"]),
        ],
        # A page of the internet whose name leads to this machine is not answered.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


def _steer(steering: Steering, state: RunState, what: str, board: str) -> str | None:
    """Do what a button asks. Returns what is wrong."""
    plain: dict[str, Callable[[], None]] = {
        "pause": steering.pause,
        "resume": steering.resume,
        "stop": steering.stop,
    }
    of_board: dict[str, Callable[[str], None]] = {"exclude": steering.exclude, "include": steering.include}
    if what in plain:
        plain[what]()
        state.set(paused=steering.paused, stopping=steering.stopping)
        state.note(f"{what}, from the page")
        return None
    if what not in of_board:
        return f"there is no {what!r}"
    if board not in state.boards:
        return f"there is no board {board!r}"
    try:
        of_board[what](board)
    except ValueError as error:
        return str(error)
    state.board(board, excluded=board in steering.excluded)
    state.note(f"{what} {board}, from the page")
    return None


async def _events(state: RunState) -> AsyncIterator[str]:
    """Events for one page: everything first, then what changes."""
    seen, quiet = 0, 0.0
    while True:
        if isinstance(state, FolderState):
            await asyncio.to_thread(state.refresh)
        if state.revision > seen:
            first, change = seen == 0, state.since(seen)
            seen, quiet = change["revision"], 0.0
            yield f"event: {'all' if first else 'change'}\ndata: {to_text(change)}\n\n"
        elif quiet >= BEAT_S:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(UPDATE_S)
        quiet += UPDATE_S


class PageServer:
    """Serves a state in a thread of its own, from `start` to `stop`. `url`: with the token."""

    def __init__(
        self,
        state: RunState,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        steering: Steering | None = None,
        token: str | None = None,
    ):
        try:
            import starlette  # noqa: F401
            import uvicorn
        except ImportError:
            raise ToolError("the live page needs more packages: pip install 'quantfl[live]'") from None
        self.state, self.token = state, token or secrets.token_urlsafe(18)
        state.set(controllable=steering is not None)
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.port}/"
        app = application(state, token=self.token, host=host, steering=steering)
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
        self._server: Any = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        """The page with the token, which lets it steer."""
        return f"{self.address}#token={self.token}"

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def start(self) -> PageServer:
        """Serve from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, at most two seconds later. Pages say that the server is away."""
        self._server.should_exit = True
        self._thread.join(timeout=3)
        self._socket.close()

    def __enter__(self) -> PageServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; UsageError: the address or the port cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the page cannot listen at {host}, port {port}: {reason}; choose another") from None
