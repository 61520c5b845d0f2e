"""GPU workers as processes, on the cards of a stand-in machine."""

from pathlib import Path

import pytest
from live_manager import Folder
from live_worker import CONFIG, await_began, gated_folder, open_gate, worker_process
from stand_in.machine import card, environment, write_scenario

from distexp.manager import ExperimentManager

# Two workers meet: neither task ends before both have begun.
SHOW = """
import os, time
from pathlib import Path
def run(params, context):
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while not Path("gate").exists(): time.sleep(0.01)
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    return {"device_seen": context.device} | {name: os.environ.get(name, "") for name in names}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return gated_folder(tmp_path, "[1, 2]", SHOW, CONFIG)


def assigned(manager: ExperimentManager, folder: Folder) -> set[str]:
    return {line.rpartition(" to ")[2] for line in folder.log() if line.startswith("Assigned task ")}


@pytest.mark.parametrize(
    ("cards", "words", "names"),
    [
        ([card(0), card(1)], [], {"gpu0", "gpu1"}),
        ([card(0)], ["--slots-per-gpu", "2"], {"gpu0", "gpu0.1"}),
    ],
    ids=["two equal cards", "a shared card"],
)
def test_two_workers_started_at_once_get_a_seat_each_and_show_their_tasks_one_card(
    folder: Folder,
    caplog: pytest.LogCaptureFixture,
    cards: list[dict[str, object]],
    words: list[str],
    names: set[str],
) -> None:
    caplog.set_level("INFO")
    scenario = folder.root / "machine.json"
    write_scenario(scenario, *cards)
    sees = environment(scenario, folder.root / "gpu-claims")
    with (
        folder.serving() as manager,
        worker_process(folder.root, *words, device="auto", environment=sees) as one,
        worker_process(folder.root, *words, device="auto", environment=sees) as two,
    ):
        for width in (1, 2):
            await_began(folder.root, width)
        open_gate(folder.root)
        assert (one.code(), two.code()) == (0, 0)
        assert assigned(manager, folder) == names
    rows = folder.rows()
    uuid_of = {f"gpu{index}": each["uuid"] for index, each in enumerate(cards)}
    assert {row["worker"] for row in rows} == names
    for row in rows:
        assert row["CUDA_VISIBLE_DEVICES"] == uuid_of[row["worker"].partition(".")[0]]
        assert (row["CUDA_DEVICE_ORDER"], row["device_seen"]) == ("PCI_BUS_ID", "cuda:0")
        assert row["device"] == "NVIDIA A100"
