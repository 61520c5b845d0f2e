"""The live page in a real browser, over real sweeps."""

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import CHROMIUM, Page, browser
from distexp.manager.manager import ExperimentManager
from tests.live_manager import Folder
from tests.live_page import Served, served_page
from tests.live_worker import CONFIG as GATED_CONFIG
from tests.live_worker import await_began, gated_folder, open_gate, worker_process
from tests.support import poll

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]
NASTY = "<img src=x onerror=hacked=1>"
# Width 1 fails while the file `broken` is there; the others wait for the file `gate`.
EXPERIMENT = """
import time
from pathlib import Path
def run(params, context):
    print(f"\\x1b[31mwidth {params['width']}\\x1b[0m <script>hacked=1</script>", flush=True)
    context.report(1, 2, **{"<script>hacked=1</script>": 0.5, "loss": 1.0})
    Path(f"began-{params['width']}-{context.attempt}").touch()
    if params["width"] == 1 and Path("broken").exists():
        raise ValueError("NASTY")
    while params["width"] > 1 and not Path("gate").exists():
        time.sleep(0.01)
    context.report(2, 2, loss=0.5)
    return {"loss": 0.5}
""".replace("NASTY", NASTY)
AXE_VERSION = "4.10.2"
AXE_FOLDER = Path.home() / ".cache" / "distexp-tests" / f"axe-core-{AXE_VERSION}"
CONTROLS = "a[href], button, input, select, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    """One browser for all tests here."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as page:
        yield page


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return gated_folder(tmp_path, "[1, 2]", EXPERIMENT)


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


@pytest.fixture
def served(folder: Folder, manager: ExperimentManager) -> Iterator[Served]:
    with served_page(folder.root) as served:
        yield served


@pytest.fixture
def page(served: Served, chromium: Page) -> Iterator[Page]:
    """The page of the folder; it neither complains nor asks anybody but its server."""
    chromium.said.clear()
    chromium.requests.clear()
    chromium.open(served.address)
    await_on(chromium, "document.documentElement.dataset.ready && document.querySelector('#tasks-table td')")
    yield chromium
    assert chromium.said == []
    own = (f"http://{served.host}/", "data:", "blob:")
    assert [each for each in chromium.requests if not each.startswith(own)] == []
    chromium.open("about:blank")


def await_on(page: Page, condition: str) -> None:
    """Return once a JavaScript condition holds."""
    wait(page, lambda: bool(page.ask(f"Boolean({condition})")), condition)


def text_of(page: Page, selector: str = "body") -> str:
    found = page.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
    return str(found)


def await_text(page: Page, selector: str, words: str) -> None:
    wait(page, lambda: words in text_of(page, selector), f"{words!r} in {selector}")


def wait(page: Page, condition: Callable[[], bool], what: str) -> None:
    try:
        poll(condition, what, 60.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; the page says: {text_of(page)}") from None


def button(name: str) -> str:
    return f"button[aria-label={json.dumps(name)}]"


def test_a_task_fails_its_log_is_read_it_is_requeued_and_completes(folder: Folder, page: Page) -> None:
    (folder.root / "broken").touch()
    with worker_process(folder.root), worker_process(folder.root):
        await_text(page, "#attention", "1 task failed for good.")
        await_text(page, "#failures", NASTY)
        page.click("#attention .actions button:first-child")  # show them
        await_text(page, "#tasks-count", "1 task")
        await_text(page, "#tasks-table tbody", "failed")
        page.click("#tasks-table tbody td.id button")
        await_text(page, "#task-log", "width 1 <script>hacked=1</script>")
        await_text(page, "#task-error", f"ValueError: {NASTY}")
        await_text(page, "#task-why", "failed (3 failures")
        (folder.root / "broken").unlink()
        page.ask("document.getElementById('task').scrollTo(0, 0)")
        page.click("#task-actions button:last-child")
        await_text(page, "#task-why", "complete: its row is in")
        await_text(page, "#task-row", "loss")
        await_on(page, "document.querySelector('#task-curves svg')")
        page.click("#task-close")
        open_gate(folder.root)
        await_text(page, "#done", "100.0 %")
    assert page.ask("window.hacked === undefined && document.querySelectorAll('img').length === 0")
    assert "\x1b" not in page.ask("document.body.textContent")


def test_the_curve_that_is_shown_first_is_of_the_metric_of_its_phase(
    folder: Folder, manager: ExperimentManager, page: Page
) -> None:
    folder.configure([2], "metric: {{name: loss, goal: minimize}}\n" + GATED_CONFIG)
    manager.rescan()
    with worker_process(folder.root):
        await_began(folder.root, 2)
        await_text(page, "#curve-legend", "exp1_vary_width_0_42")
        options = page.ask("[...document.querySelectorAll('#curve-metric option')].map((each) => each.value)")
        assert options == ["<script>hacked=1</script>", "loss"]
        assert page.ask("document.querySelector('#curve-metric').value") == "loss"
        open_gate(folder.root)
        await_text(page, "#state", "done")


def test_no_button_asks_a_manager_that_does_not_run(
    folder: Folder, manager: ExperimentManager, page: Page
) -> None:
    page.click("#tasks-table td.id button")
    await_on(page, "document.querySelector('#task-actions button').checkVisibility()")
    manager.stop()
    await_text(page, "#state", "at rest")
    buttons = "[...document.querySelectorAll('#task-actions button, #tasks-table .actions button')]"
    await_on(page, f"{buttons}.length === 6 && !{buttons}.some((each) => each.checkVisibility())")


def test_the_address_keeps_the_filter_and_not_the_token(served: Served, page: Page) -> None:
    assert "token=" in served.address
    assert page.ask("location.search") == ""
    focus(page, "#filters [name=filter]")
    page.type("width=2")
    await_text(page, "#tasks-count", "1 task")
    assert page.ask("location.search") == "?filter=width%3D2"
    page.go(page.ask("location.href"))
    await_text(page, "#tasks-count", "1 task")
    assert [each for each in page.requests if "token=" in each] == [served.address]


def test_a_worker_is_killed_and_is_seen_to_go(folder: Folder, manager: ExperimentManager, page: Page) -> None:
    folder.configure([2, 3], GATED_CONFIG)
    manager.rescan()
    with worker_process(folder.root), worker_process(folder.root) as second:
        await_began(folder.root, 2), await_began(folder.root, 3)
        await_text(page, "#workers-note", "2 workers connected, 2 busy.")
        await_text(page, "#curve-legend", "exp1_vary_width_1_42")
        second.signal(signal.SIGKILL)
        await_text(page, "#workers-note", "1 worker connected")
        await_text(page, "#workers-table tbody", "gone")
        await_text(page, "#failures", "now")
        open_gate(folder.root)
        await_text(page, "#state", "done")


def test_tasks_are_cancelled_and_the_sweep_is_paused_by_the_keyboard_alone(
    manager: ExperimentManager, page: Page
) -> None:
    missed = page.ask(
        f"""(window.missed = new Set([...document.querySelectorAll({json.dumps(CONTROLS)})]
        .filter((each) => each.checkVisibility() && !each.disabled))).size"""
    )
    page.ask("document.activeElement.blur()")
    for _ in range(missed):
        page.press("Tab")
        page.ask("missed.delete(document.activeElement)")
    assert page.ask("[...missed].map((each) => each.outerHTML)") == []
    focus(page, "#pause")
    page.press("Enter")
    await_text(page, "#state", "paused")
    assert manager.dispatcher.status().paused
    focus(page, "#filters [name=filter]")
    page.type("width=2")
    await_text(page, "#tasks-count", "1 task")
    focus(page, "#tasks-table td.id button")
    page.press("Enter")
    await_text(page, "#task-why", "the sweep is paused")
    assert page.ask("document.activeElement.id") == "task-close"
    page.press("Tab")
    page.press("Enter")
    page.press("Enter")  # it asks whether that is meant
    await_text(page, "#task-why", "cancelled")
    page.press("Escape")
    await_on(page, "!document.querySelector('#task').open")
    assert manager.dispatcher.status().cancelled == 1


def focus(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(100):
        if page.ask(f"document.activeElement === document.querySelector({json.dumps(selector)})"):
            return
        page.press("Tab")
    raise AssertionError(f"{selector} is not reached by Tab")


class _Foreign(BaseHTTPRequestHandler):
    """A page of another site, which posts to the address after `?`."""

    def do_GET(self) -> None:
        target = json.dumps(f"http://{self.path.partition('?')[2]}/action")
        text = f"""<title>foreign</title><form method="post" enctype="text/plain" action={target}>
            <input name='{{"type":"pause","x":"' value='"}}'></form><script>
            const send = (mode) => fetch({target}, {{ method: "POST", mode, credentials: "include",
                body: '{{"type":"pause"}}' }}).then((told) => told.status, () => "no answer");
            window.told = Promise.all([send("no-cors"), send("cors")]);</script>"""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


def test_a_foreign_page_that_posts_is_refused(
    manager: ExperimentManager, served: Served, page: Page, chromium: Page
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.open(
            f"http://127.0.0.1:{server.server_port}/?{served.host}"
        )  # the same host: the cookie goes along
        assert page.ask("window.told") == ["no answer", "no answer"]
        page.ask("document.querySelector('form').submit()")
        await_text(page, "body", "Another site has sent this request.")
        assert not manager.dispatcher.status().paused
    finally:
        server.shutdown()
        server.server_close()
        chromium.said.clear()  # the browser says that it was refused
        chromium.requests.clear()


@pytest.mark.parametrize("width", [400, 1280, 2000])
def test_the_page_is_never_wider_than_the_window(page: Page, width: int) -> None:
    page.resize(width, 900)
    assert page.ask("document.documentElement.scrollWidth") == width
    page.click("#tasks-table td.id button")
    await_text(page, "#task-why", "no worker is connected")
    assert page.ask(
        "document.querySelector('#task').scrollWidth <= document.querySelector('#task').clientWidth"
    )


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, fetched once."""
    script = AXE_FOLDER / "package" / "axe.min.js"
    if not script.exists():
        AXE_FOLDER.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                ["npm", "pack", "--silent", f"axe-core@{AXE_VERSION}"],
                cwd=AXE_FOLDER, check=True, capture_output=True, timeout=120,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"needs npm and its registry for axe-core ({error})")
        subprocess.run(["tar", "xf", f"axe-core-{AXE_VERSION}.tgz"], cwd=AXE_FOLDER, check=True)
    return script.read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(folder: Folder, served: Served, page: Page, axe: str, dark: bool) -> None:
    (folder.root / "broken").touch()
    with worker_process(folder.root):
        page.open(served.address, dark=dark)
        await_text(page, "#failures", NASTY)
        await_text(page, "#curve-legend", "exp1")
        for part in ("document", "'#task'"):
            page.ask(f"{axe}; undefined")
            found = page.ask(f"axe.run({part}).then((told) => told.violations)")
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in serious] == []
            page.click("#tasks-table td.id button")
            await_text(page, "#task-log", "width 1")
        open_gate(folder.root)
