"""The addresses of the page: its files, what the sweep tells, and what the user wants done."""

import asyncio
import contextlib
import html
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from distexp.errors import DistexpError
from distexp.reporting.html import PARTS
from distexp.task import Value
from distexp.text import join_words, split_words, value_of
from distexp.web.curves import Curve, read_curves
from distexp.web.feed import Feed
from distexp.web.guard import Access, Guard
from distexp.web.phases import FolderPhases
from distexp.web.report import Report
from distexp.web.searches import read_searches
from distexp.web.source import Source
from distexp.wire.messages import (
    Ack,
    AnyReply,
    AnyRequest,
    Cancel,
    Drain,
    Logs,
    LogsReply,
    Pause,
    Requeue,
    Resume,
    Show,
    ShowReply,
    Tasks,
    TasksReply,
)

PAGE = Path(__file__).parent / "page"
STATIC = {  # which files are served: their folder, their type
    "live.css": (PAGE, "text/css"),
    **{f"{name}.js": (PAGE, "text/javascript") for name in ("live", "parts", "charts", "tasks", "task")},
    "report/page.css": (PARTS, "text/css"),
    **{f"report/{name}.js": (PARTS, "text/javascript") for name in ("dom", "text")},
}
MAX_BODY_BYTES = 64 * 1024  # of an action: a page of task ids
TAIL_BYTES = 64 * 1024  # of a log, where it is opened
CURVE_TASKS = 24  # whose curves are asked for at once: more lines than a chart shows apart
FOLDER_S = 60.0  # for which a task's folder is remembered: an edit may move its label to another task

Reply = TypeVar("Reply", bound=AnyReply)
Action = Cancel | Requeue | Pause | Resume | Drain
_actions = msgspec.json.Decoder(Action)


def make_app(root: Path, source: Source, phases: FolderPhases, access: Access, report: Report) -> Starlette:
    """Return the application.

    Args:
        root: The working folder, of which run folders are read.
        source: Answers.
        phases: Of its configs.
        access: What a browser has to show.
        report: Makes the charts of all rows.
    """
    page = Page(root, source, phases, report)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        asking = asyncio.create_task(page.feed.run())
        try:
            yield
        finally:
            asking.cancel()

    routes = [
        Route("/", page.index),
        Route("/static/{name:path}", page.static),
        Route("/events", page.events),
        Route("/gpus", page.gpus),
        Route("/tasks", page.tasks),
        Route("/task", page.task),
        Route("/log", page.log),
        Route("/curves", page.curves),
        Route("/metrics", page.metrics),
        Route("/searches", page.searches),
        Route("/report", page.report),
        Route("/report", page.make_report, methods=["POST"]),
        Route("/action", page.action, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=life)
    app.add_middleware(Guard, access=access)
    return app


class Page:
    """Answers one address with each method.  For one event loop."""

    def __init__(self, root: Path, source: Source, phases: FolderPhases, report: Report) -> None:
        """Ask nobody yet."""
        self._root, self._source, self._phases, self._report = root, source, phases, report
        self.feed = Feed(source)
        self._folders: dict[str, tuple[float, Path]] = {}  # of a task id: known until, where

    async def index(self, request: Request) -> Response:
        """Return the page."""
        title = html.escape(self._root.name)
        text = (PAGE / "index.html").read_text(encoding="utf-8").replace("@@TITLE@@", title)
        return Response(text.replace("@@FOLDER@@", html.escape(str(self._root))), media_type="text/html")

    async def static(self, request: Request) -> Response:
        """Return a file of the page."""
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("no such file", 404)
        folder, kind = STATIC[name]
        return Response((folder / Path(name).name).read_bytes(), media_type=kind)

    async def events(self, request: Request) -> Response:
        """Return the sweep at a glance, again and again."""

        async def stream() -> AsyncIterator[bytes]:
            async for update in self.feed.updates():
                yield b"data: " + update + b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def gpus(self, request: Request) -> Response:
        """Return what is known of the last minutes of each worker's GPU."""
        return _json({worker: list(samples) for worker, samples in self.feed.gpus.items()})

    async def tasks(self, request: Request) -> Response:
        """Return a page of tasks, and what that has cost the manager."""
        asked = request.query_params
        where, words = parse_filter(asked.get("filter", ""))
        wanted = Tasks(
            state=asked.get("state") or None,
            phase=asked.get("phase") or None,
            where=where,
            text=join_words(words),
            sort=asked.get("sort", ""),
            offset=_natural(asked.get("offset", "")),
        )
        began_s = time.monotonic()
        return await self._looked(wanted, TasksReply, lambda reply: (reply, time.monotonic() - began_s))

    async def task(self, request: Request) -> Response:
        """Return everything about one task."""
        return await self._looked(Show(task=request.query_params.get("task", "")), ShowReply)

    async def log(self, request: Request) -> Response:
        """Return what a task has printed, from `offset` on; without it, the end of that."""
        task, offset = request.query_params.get("task", ""), request.query_params.get("offset", "")
        if offset:
            return await self._looked(Logs(task=task, offset=_natural(offset)), LogsReply)
        return await _answered(lambda: self._end_of_log(task))

    def _end_of_log(self, task: str) -> LogsReply:
        first = self._source.look(Logs(task=task), LogsReply)
        if first.offset >= first.size:
            return first
        return self._source.look(Logs(task=task, offset=max(0, first.size - TAIL_BYTES)), LogsReply)

    async def curves(self, request: Request) -> Response:
        """Return the learning curves of some tasks."""
        names = request.query_params.getlist("task")[:CURVE_TASKS]
        return await _answered(lambda: {name: self._curves_of(name) for name in names})

    def _curves_of(self, task_id: str) -> dict[str, Curve]:
        known_until_s, folder = self._folders.get(task_id, (0.0, self._root))
        if time.monotonic() > known_until_s:
            try:
                shown = self._source.look(Show(task=task_id), ShowReply)
            except DistexpError:
                return {}
            folder = (self._root / shown.log_path).parent
            self._folders[task_id] = time.monotonic() + FOLDER_S, folder
        found = dict(read_curves(folder))
        return found or dict(self.feed.curves_of(task_id))

    async def metrics(self, request: Request) -> Response:
        """Return the metric of each phase that names one: what is shown of it first."""
        return await _answered(lambda: self._phases.read().metrics())

    async def searches(self, request: Request) -> Response:
        """Return how far the phases are that stop tasks early."""
        return await _answered(lambda: read_searches(self._root, self._phases.read()))

    async def report(self, request: Request) -> Response:
        """Return the report that was made last; its scripts reach nothing of the page."""
        return Response(self._report.text, media_type="text/html", headers=self._report.headers)

    async def make_report(self, request: Request) -> Response:
        """Make the report anew."""
        return _json({"error": await self._report.make()})

    async def action(self, request: Request) -> Response:
        """Have the manager do something."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                return _problem("too much at once", 413)
        try:
            wanted = _actions.decode(body)
        except msgspec.MsgspecError as error:
            return _problem(f"no such action: {error}")
        return await _answered(lambda: self._source.order(wanted, Ack))

    async def _looked(
        self,
        request: AnyRequest,
        expected: type[Reply],
        shown: Callable[[Reply], object] = lambda reply: reply,
    ) -> Response:
        return await _answered(lambda: shown(self._source.look(request, expected)))


def parse_filter(text: str) -> tuple[dict[str, Value], list[str]]:
    """Return the values of parameters (`name=value`, `name="a value"`), and the other words of a filter.

    A value is read as JSON where it is some, else as text.
    """
    where, words = dict[str, Value](), []
    for word in split_words(text):
        name, sign, value = word.partition("=")
        if name and sign:
            where[name] = value_of(value)
        else:
            words.append(word)
    return where, words


async def _answered(answer: Callable[[], object]) -> Response:
    """Return the answer of a thread as JSON; what the user can fix as its `error`."""
    try:
        return _json(await asyncio.to_thread(answer))
    except DistexpError as error:
        return _problem(str(error))


def _problem(text: str, status: int = 400) -> Response:
    return Response(msgspec.json.encode({"error": text}), status, media_type="application/json")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _natural(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0
