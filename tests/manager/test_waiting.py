"""Requests that wait at a real manager until there is a task, over real connections."""

import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from distexp.manager import dispatch, waiting
from distexp.manager.manager import ExperimentManager
from distexp.manager.waiting import AT_ONCE, Assignment
from distexp.manager.workers import Worker
from distexp.task import State
from distexp.wire.server import Connection
from tests.live_manager import Folder, RawClient, secret_of, worker
from tests.support import poll

LONG_S = 30.0


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    folder.configure([1])
    with folder.serving() as manager:
        yield manager


def await_waiting(manager: ExperimentManager, number: int) -> None:
    requests = manager.dispatcher._waiting._requests
    poll(lambda: len(requests) == number, f"{number} requests that wait")


def wait(manager: ExperimentManager, client: RawClient, number: int = 1) -> None:
    """Let a client's request wait, as the `number`th."""
    client.send("request_task", wait_s=LONG_S)
    await_waiting(manager, number)


def give_back(client: RawClient, task: dict[str, object]) -> None:
    client.say("task_released", lease_id=task["lease_id"], key=task["key"])


def test_a_task_that_becomes_free_goes_to_who_waits_longest(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as first, worker(manager, "gpu2") as second:
        task = busy.say("request_task")
        wait(manager, first)
        wait(manager, second, 2)
        give_back(busy, task)
        assert first.read()["key"] == task["key"]
        await_waiting(manager, 1)


def test_who_asks_again_keeps_its_place(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as first, worker(manager, "gpu2") as second:
        task = busy.say("request_task")
        assert first.say("request_task", wait_s=0.01)["reason"] == "wait"
        wait(manager, second)
        wait(manager, first, 2)
        give_back(busy, task)
        assert first.read()["type"] == "task"


def test_clients_of_one_name_do_not_pass_by_others(folder: Folder) -> None:
    folder.configure([1, 2])
    own = {"instance": "", "heartbeat_s": None}
    with (
        folder.serving() as manager,
        worker(manager) as busy,
        worker(manager, "gpu1") as fair,
        worker(manager, "by-hand", **own) as one,
        worker(manager, "by-hand", **own) as other,
    ):
        tasks = [busy.say("request_task", instance=each) for each in ("1", "2")]
        for number, each in enumerate((one, fair, other), start=1):
            wait(manager, each, number)
        for task, waiting in zip(tasks, (one, fair), strict=True):
            give_back(busy, task)
            assert waiting.read()["key"] == task["key"]


def test_of_many_whose_time_is_limited_one_speaks_for_all_that_are_like_it(
    manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, assign = list[int](), manager.dispatcher.assign

    def count(workers: Sequence[Worker], *, have_waited: bool = False) -> list[Assignment]:
        asked.append(len(workers))
        return assign(workers, have_waited=have_waited)

    with ExitStack() as stack:
        stack.enter_context(worker(manager)).say("request_task")
        for number in range(3 * AT_ONCE):
            idle = stack.enter_context(worker(manager, f"job{number}", left_s=3600.5 + number))
            wait(manager, idle, number + 1)
        monkeypatch.setattr(manager.dispatcher, "assign", count)
        manager.dispatcher.look_again()
        poll(lambda: bool(asked), "a look")
        with manager.dispatcher._waiting._trying:
            assert sum(asked) <= AT_ONCE


def test_work_that_only_others_can_do_passes_by_who_cannot(folder: Folder) -> None:
    folder.configure(
        [1], "defaults: {{output_dir: results_exp1, gpus: 1}}\np: {{combinations: [width: {widths}]}}"
    )
    with folder.serving() as manager, worker(manager, gpus=1) as busy, worker(manager, "cpu0") as cpu:
        task = busy.say("request_task")
        with worker(manager, "gpu1", gpus=1) as gpu:
            wait(manager, cpu)
            wait(manager, gpu, 2)
            give_back(busy, task)
            assert gpu.read()["key"] == task["key"]
        await_waiting(manager, 1)


def test_a_task_of_one_gpu_model_passes_by_equal_workers_with_another(folder: Folder) -> None:
    folder.configure(
        [1],
        "defaults: {{output_dir: results_exp1, gpu_model: H100}}\np: {{combinations: [width: {widths}]}}",
    )
    with ExitStack() as all_open:
        manager = all_open.enter_context(folder.serving())
        busy, *others, fit = (
            all_open.enter_context(worker(manager, f"gpu{number}", gpus=1, device=f"NVIDIA {model}"))
            for number, model in enumerate(("H100", *["A100"] * AT_ONCE, "H100"))
        )
        task = busy.say("request_task")
        for number, each in enumerate([*others, fit], start=1):
            wait(manager, each, number)
        give_back(busy, task)
        assert fit.read()["key"] == task["key"]


def test_who_waits_for_memory_of_a_gpu_is_soon_asked_to_look_at_it_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MEMORY_LOOK_S", 0.1)
    defaults = "defaults: {{output_dir: results_exp1, min_free_gb: 12}}\n"
    folder.configure([1], defaults + "p: {{combinations: [width: {widths}]}}")
    whole = {"gpus": 1, "memory_mib": 16 * 1024}
    with folder.serving() as manager, worker(manager, free_mib=8 * 1024, **whole) as idle:
        idle.socket.settimeout(LONG_S / 2)
        assert idle.say("request_task", wait_s=LONG_S)["reason"] == "wait"
        assert idle.say("request_task", free_mib=12 * 1024)["type"] == "task"


def test_workers_whose_setup_has_failed_keep_no_task_from_one_whose_setup_has_not(folder: Folder) -> None:
    folder.configure([1, 2])
    with ExitStack() as all_open:
        manager = all_open.enter_context(folder.serving())
        good, busy, *bad = (
            all_open.enter_context(worker(manager, f"gpu{number}")) for number in range(AT_ONCE + 3)
        )
        for each in bad:
            task = each.say("request_task")
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            each.say("task_failed", **named, cause="setup", error="setup failed")
        good.say("task_complete", key=good.say("request_task")["key"], result={"score": 1})
        assert not manager.queue.holds.held, "it has worked for others"
        task = busy.say("request_task")
        for number, each in enumerate([*bad, good], start=1):
            wait(manager, each, number)
        give_back(busy, task)
        assert good.read()["key"] == task["key"]


def test_nothing_to_do_is_said_at_the_end_of_the_time_that_was_asked_for(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as idle:
        busy.say("request_task")
        told = idle.say("request_task", wait_s=0.05)
    assert (told["reason"], told["retry_after_s"]) == ("wait", 0.0)


def test_the_end_of_the_sweep_is_told_at_once(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as idle:
        task = busy.say("request_task")
        wait(manager, idle)
        busy.say("task_complete", lease_id=task["lease_id"], key=task["key"], result={"score": 1})
        assert idle.read()["reason"] == "done"


def test_a_drained_worker_and_a_pause_are_told_at_once(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as drained, worker(manager, "gpu2") as idle:
        busy.say("request_task")
        wait(manager, drained)
        wait(manager, idle, 2)
        with RawClient(manager.port, token=secret_of(manager)) as user:
            user.say("drain", worker_id="gpu1")
            assert drained.read()["reason"] == "done"
            user.say("pause")
        assert (told := idle.read())["reason"] == "wait"
        assert told["message"] == "paused"


def test_a_worker_is_drained_by_its_name_however_long_that_of_its_host_is(manager: ExperimentManager) -> None:
    host = f"{'node.' * 50}x"
    with worker(manager) as busy, worker(manager, "gpu0+1", host=host) as idle:
        busy.say("request_task")
        wait(manager, idle)
        with RawClient(manager.port, token=secret_of(manager)) as user:
            assert user.say("drain", worker_id=f"{host}/gpu0+1")["type"] == "ack"
        assert idle.read()["reason"] == "done"


def test_a_client_that_sends_more_while_it_waits_is_told_when_to_ask_again(
    manager: ExperimentManager,
) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as idle:
        busy.say("request_task")
        wait(manager, idle)
        idle.socket.sendall(b"\n")  # which a program has sent by itself
        told = idle.read()
    assert (told["reason"], told["retry_after_s"]) == ("wait", dispatch.WAIT_S)


def test_a_new_task_of_an_edited_config_goes_to_who_waits(folder: Folder, manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as idle:
        busy.say("request_task")
        wait(manager, idle)
        folder.configure([1, 2])
        manager.rescan()
        manager.run_once()
        assert idle.read()["config"] == {"width": 2}


def test_a_manager_that_stops_says_restarting_to_who_waits(folder: Folder) -> None:
    folder.configure([1])
    with ExitStack() as clients:
        with folder.serving() as manager:
            busy = clients.enter_context(worker(manager))
            idle = clients.enter_context(worker(manager, "gpu1"))
            busy.say("request_task")
            wait(manager, idle)
        assert manager.dispatcher._waiting._thread is None, "it has ended"
        assert idle.read()["reason"] == "restarting"
        assert idle.is_ended()


@pytest.mark.parametrize("system", ["its own", "one whose looks miss a new connection, such as Windows"])
def test_a_worker_that_died_while_it_waited_gets_nothing(
    manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system != "its own":
        monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
        monkeypatch.setattr(waiting, "HEARS_NEW", False)
    with worker(manager) as busy, worker(manager, "gpu2") as other:
        task = busy.say("request_task")
        dead = worker(manager, "gpu1")
        wait(manager, dead)
        dead.reset()
        await_waiting(manager, 0)
        wait(manager, other)
        give_back(busy, task)
        assert other.read()["attempt"] == 2


def test_more_may_wait_than_a_system_hears_at_a_time(
    folder: Folder, manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    monkeypatch.setattr(waiting, "HEARS_NEW", False)
    monkeypatch.setattr(waiting, "MAX_HEARD", 1)
    with ExitStack() as stack:
        stack.enter_context(worker(manager)).say("request_task")
        idle = [stack.enter_context(worker(manager, f"cpu{number}")) for number in range(3)]
        for number, client in enumerate(idle, start=1):
            wait(manager, client, number)
        folder.configure([1, 2, 3, 4])
        manager.rescan()
        manager.run_once()
        assert len({client.read()["key"] for client in idle}) == len(idle)


def test_a_task_whose_worker_left_before_it_began_costs_nothing(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as gone, worker(manager, "gpu2") as other:
        task = busy.say("request_task")
        wait(manager, gone)
        give_back(busy, task)
        poll(lambda: manager.queue.entry(str(task["key"])).state is State.ASSIGNED, "the assignment")
        wait(manager, other)
        gone.reset()
        assert other.read()["attempt"] == 2, "as if it had never been assigned"
        assert manager.queue.entry(str(task["key"])).losses == 0
    assert f"Task {task['task_id']} goes to another worker: gpu1 left before it began" in folder.log()


def test_a_task_given_to_a_worker_that_was_stopped_while_it_waited_goes_to_another_after_10_s(
    manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as stopped, worker(manager, "gpu2") as other:
        task = busy.say("request_task")
        wait(manager, stopped)
        give_back(busy, task)
        begun = stopped.read()
        wait(manager, other)
        now_s = time.monotonic()
        monkeypatch.setattr(manager.queue, "_clock", lambda: now_s + 10)
        manager.run_once()
        assert other.read()["attempt"] == 2, "as if it had never been assigned"
        beat = stopped.say("heartbeat", lease_id=begun["lease_id"], key=begun["key"])
        assert beat["stop"], "once it goes on it hears that another has the task"


def test_a_task_whose_worker_began_it_and_died_is_lost(manager: ExperimentManager) -> None:
    with worker(manager) as busy, worker(manager, "gpu1") as gone:
        task = busy.say("request_task")
        wait(manager, gone)
        give_back(busy, task)
        begun = gone.read()
        lease = {"lease_id": begun["lease_id"], "key": begun["key"]}
        assert gone.say("heartbeat", **lease)["stop"] is False
        manager.dispatcher.completion.lose(manager.queue.leases()[0], "its process is gone")
        assert manager.queue.entry(str(task["key"])).losses == 1


def test_a_connection_that_closes_has_waiting_workers_tried_again_only_where_it_frees_a_task(
    manager: ExperimentManager,
) -> None:
    known = manager.dispatcher._waiting.changes
    manager.dispatcher.closed(Connection(number=10**6, peer="127.0.0.1:7", is_local=True))
    assert manager.dispatcher._waiting.changes == known


def test_hundreds_that_wait_share_what_comes_and_nobody_gets_two(
    folder: Folder, manager: ExperimentManager
) -> None:
    clients = 200
    with ExitStack() as stack:
        busy = stack.enter_context(worker(manager))
        busy.say("request_task")
        idle = [stack.enter_context(worker(manager, f"cpu{number}")) for number in range(clients)]
        for client in idle:
            client.send("request_task", wait_s=LONG_S)
        await_waiting(manager, clients)
        folder.configure(list(range(1, clients + 2)))
        manager.rescan()
        manager.run_once()
        tasks = [client.read() for client in idle]
    assert len({task["key"] for task in tasks}) == clients
