"""Who is served: asked over real sockets, as browsers and other sites' pages would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.manager.manager import ExperimentManager
from tests.live_manager import Folder
from tests.live_page import Served, served_page

PAUSE = {"type": "pause"}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentManager]:
    folder = Folder(tmp_path_factory.mktemp("sweep"))
    folder.configure([1, 2, 3])
    with folder.serving() as manager:
        yield manager


@pytest.fixture(scope="module")
def page(manager: ExperimentManager) -> Iterator[Served]:
    with served_page(Path(manager.workdir.root)) as page:
        page.log_in()
        yield page


def test_the_address_with_its_token_gives_a_cookie_that_no_script_and_no_other_site_sees(
    page: Served,
) -> None:
    token = page.address.partition("token=")[2]
    status, text = page.ask(f"/?token={token}", cookie="", sec_fetch_site="none")
    assert status == 200
    name_and_value, *attributes = page.headers["set-cookie"].split("; ")
    assert {*attributes} == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert token not in name_and_value
    assert token not in text
    assert page.ask("/", cookie=name_and_value)[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/static/live.js", "/tasks", "/events", "/?token=", "/?token=wrong", "/tasks?token=TOKEN"]
)
@pytest.mark.parametrize("cookie", ["", "distexp_1=x"])
def test_nothing_is_served_without_token_or_cookie(page: Served, path: str, cookie: str) -> None:
    token = page.address.partition("token=")[2]
    status, text = page.ask(path.replace("TOKEN", token), cookie=cookie)
    assert (status, "token" in text) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},  # another page of this host: its requests hold the cookie
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"host": "evil.example"},  # a name that its owner has led here
        {"host": "evil.example:80"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "["},
    ],
)
def test_what_another_site_sends_does_nothing_though_the_cookie_is_there(
    manager: ExperimentManager, page: Served, headers: dict[str, str]
) -> None:
    status, _ = page.ask("/action", "POST", PAUSE, **headers)
    assert status == 403
    assert not manager.dispatcher.status().paused


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_reads_nothing(page: Served, site: str) -> None:
    for path in ("/tasks", "/events", "/task?task=exp1_vary_width_0_42", "/static/live.js"):
        assert page.ask(path, sec_fetch_site=site)[0] == 403


def test_the_page_itself_is_heard(manager: ExperimentManager, page: Served) -> None:
    assert page.ask("/action", "POST", PAUSE) == (200, {"type": "ack", "message": "paused"})
    assert manager.dispatcher.status().paused
    assert page.ask("/action", "POST", {"type": "resume"})[0] == 200
    port = page.host.partition(":")[2]
    tunnel = {"host": "localhost:8080", "origin": "http://localhost:8080"}  # of `ssh -L 8080:localhost:PORT`
    assert page.ask("/action", "POST", {"type": "resume"}, **tunnel)[0] == 200
    assert page.ask("/", host=f"[::1]:{port}")[0] == 200


def test_a_get_changes_nothing(manager: ExperimentManager, page: Served) -> None:
    assert page.ask("/action", body=PAUSE)[0] == 405
    assert not manager.dispatcher.status().paused


@pytest.mark.parametrize(
    "body", [{"type": "request_task", "worker_id": "w"}, {"type": "view"}, [], {"type": "drain"}]
)
def test_only_actions_are_passed_on(page: Served, body: object) -> None:
    status, told = page.ask("/action", "POST", body)
    assert status == 400
    assert isinstance(told, dict)
    assert told["error"].startswith("no such action")


def test_an_action_has_a_limit(page: Served) -> None:
    assert page.ask("/action", "POST", {"type": "cancel", "tasks": ["x" * 70_000]})[0] == 413


def test_no_answer_may_be_framed_kept_or_run_scripts_of_its_own(page: Served) -> None:
    for path in ("/", "/tasks", "/static/live.css"):
        assert page.ask(path)[0] == 200
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
    page.ask("/report")
    assert "sandbox allow-scripts" in page.headers["content-security-policy"]
    assert "allow-same-origin" not in page.headers["content-security-policy"]


def test_the_folders_secret_is_nowhere_on_the_page(manager: ExperimentManager, page: Served) -> None:
    secret = Folder(manager.workdir.root).token
    paths = ("/", "/tasks", "/task?task=exp1_vary_width_0_42", "/static/live.js", "/gpus", "/searches")
    assert not [path for path in paths if secret in str(page.ask(path))]
    assert secret not in page.address
