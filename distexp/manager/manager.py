"""The manager's life: start in the order that keeps every promise, one turn after the other, stop."""

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import FrameType

from distexp.errors import ConfigError, JournalUnwritable, UserError
from distexp.manager.address import is_reachable, ports_to_try
from distexp.manager.code_watch import HeldCode
from distexp.manager.dispatch import Dispatcher
from distexp.manager.duplicates import copy_duplicate_rows
from distexp.manager.ending import Ending
from distexp.manager.frozen_code import FrozenCode
from distexp.manager.hooks import Commands, Hooks
from distexp.manager.kept_rows import KeptRows
from distexp.manager.network_folder import DELETED, NetworkFolder
from distexp.manager.pauses import PauseWatch
from distexp.manager.searches import Searches
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Lease
from distexp.queue.journal import Journal
from distexp.queue.priorities import Priorities
from distexp.queue.records import PeakRecord, PhaseRecord, SuggestionRecord, TaskRecord
from distexp.queue.task_queue import TaskQueue
from distexp.results.results_file import READING as READING_RESULTS
from distexp.results.results_file import Scan
from distexp.results.store import ResultsStore
from distexp.sweep.config_files import DEFAULT_CONFIGS
from distexp.sweep.grid import Grid, GridPoint
from distexp.sweep.source import READING as READING_CONFIGS
from distexp.sweep.source import Sweep
from distexp.system import gc
from distexp.system.git import commit_of
from distexp.system.logs import log_to_file, stop_logging_to
from distexp.system.long_work import LongWork, Step
from distexp.system.process import host_name, machine_id
from distexp.task import State
from distexp.text import count_text
from distexp.wire.auth import load_or_make_identity
from distexp.wire.messages import DEFAULT_PORT, ViewReply
from distexp.wire.server import Server
from distexp.workdir import Workdir

RESCAN_S = 5.0
TURN_S = 0.25  # a worker that died is noticed within a turn
LOOK_S = 1.0  # for a verb without a manager to read the journal


log = logging.getLogger("distexp.manager")


class ExperimentManager:
    """Expands the configs of a folder into tasks and assigns them over TCP until they all have their row."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = DEFAULT_PORT,
        *,
        workdir: str | Path = ".",
        configs: str = DEFAULT_CONFIGS,
        rescan_s: float = RESCAN_S,
        auth: bool = True,
        exit_when_done: bool = False,
        retry_failed: bool = False,
        retry_other_code: bool = False,
        on_finish: str | None = None,
        on_failure: str | None = None,
        keep_going: bool = False,
        freeze_code: bool = False,
        has_all_workers: bool = False,
    ) -> None:
        """Touch nothing yet; `start` does.

        Args:
            host: Address to bind.
            port: Port to bind; 0 takes a free one, None 5000, or else a free one, the same at each restart.
            workdir: The folder that holds configs and results.
            configs: Pattern of the config files, relative to `workdir`.
            rescan_s: Seconds between two looks at configs and results.
            auth: Whether requests other than `status` need the folder's secret.
            exit_when_done: Return from `serve` once every task has ended.
            retry_failed: Give tasks that failed under an earlier manager new budgets.
            retry_other_code: Run finished tasks again that ran other code than the folder holds.
            on_finish: A command to run when nothing is left to do, with the counts in its environment.
            on_failure: The same, for each task that has failed for good.
            keep_going: Hold no phase, though all its tasks fail.
            has_all_workers: None but those of this host's `run` will come: what none of them can run is not
                waited for, unless other machines reach the manager.
            freeze_code: Let tasks run from a copy of the code as it is when the manager starts.
        """
        self.host, self._wanted_port = host, port
        self.workdir = Workdir(Path(workdir).absolute())
        self._rescan_s = rescan_s
        self._auth, self._exit_when_done, self._retry_failed = auth, exit_when_done, retry_failed
        self._retry_other_code, self._keep_going = retry_other_code, keep_going
        self._has_all_workers = has_all_workers
        self._frozen = FrozenCode(self.workdir, is_frozen=freeze_code)
        self._configs, self._sweep = configs, Sweep(self.workdir.root, configs)
        self._commands = Commands.parse(on_finish, on_failure)
        self._is_serving = self._is_stopping = self._is_done = False
        self._is_lost = False  # the folder of its state was deleted or replaced
        self._pauses = PauseWatch(self._on_pause)
        self._signals = 0  # that asked for a stop
        self._next_rescan_s = 0.0
        self._stuck: set[str] = set()  # ids of leases whose worker has died and whose task does not end
        self._unreadable: set[str] = set()  # ids of leases that do not end while a file cannot be read
        self._last_situation: object = None  # what workers that wait for a task were last tried in
        self._starting = LongWork(log.info)
        self._last_counts: dict[State, int] = {}
        self._unwritable: dict[str, str] = {}  # folder -> why its results file cannot be written

    # -- life ----------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Start, work until a stop is asked for or all is done, stop; return the exit code.

        It is 1 when nothing more can be done and a task has failed, or is left, and when the folder of its
        state was deleted; else 0.

        Raises:
            UserError: It cannot start; the message says why.
        """
        self.start()
        try:
            while not self._is_stopping:
                self.run_once()
                time.sleep(TURN_S)
        finally:
            self.stop()
        is_good = self.queue.is_over() and not self.queue.counts()[State.FAILED]
        return int(self._is_lost or (self._is_done and not is_good))

    @gc.set_aside()
    def start(self) -> None:
        """Read configs, results and journal, then serve.

        Raises:
            UserError: A config is wrong, the folder has a manager, its token cannot be used, the port is
                taken, the address is none of this host, or not loopback though no secret is asked for.
            JournalUnwritable: The journal cannot be opened.
        """
        self._is_reachable = is_reachable(self.host, auth=self._auth)
        with self._starting, ExitStack() as log_open, ExitStack() as undo:  # undone when a later step fails
            self._starting.begin(READING_CONFIGS)
            tasks = self._sweep.load()
            self._folder, self._folder_lock = self.workdir.hold(LOOK_S), self.workdir.lock
            undo.callback(self._folder.release)
            undo.callback(self._pauses.stop)
            log_open.callback(stop_logging_to, log_to_file(self.workdir.log))
            self._network = NetworkFolder(self.workdir)
            self._starting.begin("Looking for a manager of another host")
            self._network.take()
            undo.callback(self._network.give_back)
            self.journal = Journal(self.workdir.journal)
            undo.callback(self.journal.close)
            self.journal.sweep_id = self.workdir.keep_sweep_id(self.journal.sweep_id)
            token, tls = load_or_make_identity(self.workdir)
            self._make_parts(token.secret if self._auth else None)
            self._load(tasks)
            undo.callback(self._searches.close)
            ports = ports_to_try(self.workdir, self._wanted_port)
            self._server = Server(self.host, ports, self.dispatcher, tls)
            undo.callback(self._server.server_close)
            is_fallback = self._wanted_port is None and self.port != DEFAULT_PORT
            self.workdir.announce(self.host, self.port, self._configs, is_fallback=is_fallback)
            self._held, self._log_open = undo.pop_all(), log_open.pop_all()
        self._pauses.start()
        self._server.start()
        self._start_searches()
        self._is_serving = True
        self._next_rescan_s = time.monotonic() + self._rescan_s
        self._say_served(is_fallback=is_fallback)

    def _say_served(self, *, is_fallback: bool) -> None:
        log.info("Manager serves %s:%d for %s", self.host, self.port, self.workdir.root)
        if is_fallback:
            said = "Port %d was taken: workers and clients outside of this folder need the port %d"
            log.info(said, DEFAULT_PORT, self.port)
        if self._is_reachable:
            log.info(
                "Workers on other machines need a copy of %s; they start by `distexp worker HOST %d`, "
                "with --fetch where your code is not",
                *(self.workdir.token, self.port),
            )

    def _make_parts(self, secret: str | None) -> None:
        """Make what shares the sweep, which has no task yet; `secret` None: no request needs a token."""
        self._kept = KeptRows(self.workdir.kept_rows)
        self.queue = TaskQueue(
            time.monotonic,
            self.journal.record,
            keep_going=self._keep_going,
            waits_for_row=self._kept.keys,
            priorities=Priorities(self.journal.record),
        )
        self.store = ResultsStore(self.workdir.root, self._on_scan, self._starting.advance)
        self._registry = WorkerRegistry(
            host=host_name(),
            machine=machine_id(),
            nonce=self.workdir.read_nonce(),
            task_lock=self.workdir.task_lock,
            clock=time.monotonic,
            freezes_code=self._frozen.is_frozen,
            on_drain=self.journal.record,
        )
        self._searches = Searches(self.workdir.root, self.queue, self.store, self.journal)
        self._held_code = HeldCode(self.workdir.root, self.queue)
        sweep = SweepState(
            *(self.workdir, self.queue, self.store, self._registry),
            frozen=self._frozen,
            record=self.journal.record,
        )
        self.dispatcher = Dispatcher(
            *(sweep, self.journal, self._kept),
            secret=secret,
            holds_folder=self._holds_folder,
            on_hold=self._held_code.note,
            on_assign=self._searches.look,
        )
        has_all_workers = self._has_all_workers and not self._is_reachable
        self._ending = Ending(sweep, self.dispatcher, self._kept, has_all_workers=has_all_workers)

    def _load(self, tasks: Sequence[GridPoint]) -> None:
        """Fill the queue: what is to do, less what the rows hold, as the journal remembers it."""
        known = self.journal.load(TaskRecord)
        for record in known:
            if record.is_settled:  # as earlier versions kept them: they go
                self.journal.record(record)
        self._searches.recall(self.journal.load(SuggestionRecord), self._sweep.phases)
        total = self._searches.sync(self._sweep.phases, tasks, self._join).total
        self.store.recall_superseded({each.key: each.superseded for each in known if each.superseded})
        log.info("Generated %d total tasks", total)
        self._starting.begin(READING_RESULTS, self.store.size())
        self.store.scan_all()
        self.dispatcher.completion.write_kept_rows()
        self._block_unwritable()
        copy_duplicate_rows(self.queue, self.store, self.dispatcher.code)
        log.info("Marked %d tasks as already completed", self.queue.counts()[State.COMPLETE])
        self._frozen.freeze()
        self.dispatcher.code.say_other()
        self.dispatcher.rungs.continue_pruned()
        self._restore(known)
        self._hooks = Hooks(self.queue, self._commands, self.dispatcher.status, self.workdir.root)
        self.dispatcher.completion.say_what_failed_before()

    def _restore(self, known: Sequence[TaskRecord]) -> None:
        """Take over what happened under earlier managers: attempts, leases, what was steered, memory held."""
        self.queue.priorities.restore(self.journal.load(PhaseRecord))
        self.dispatcher.restore_steering()
        self.dispatcher.packing.recall(self.journal.load(PeakRecord))
        self.queue.restore(known, retry_failed=self._retry_failed)
        if any(record.lease is not None and self.queue.knows(record.key) for record in known):
            self._ending.await_return()
        self.dispatcher.restore_leases()
        if self._retry_other_code:
            self.dispatcher.code.requeue_at_start()

    def _join(self, tasks: Sequence[GridPoint], to_come: Mapping[Grid, int]) -> tuple[int, int]:
        """Make `tasks` the sweep, of which more are to come; return how many joined, and how many left."""
        joined_left = self.queue.sync(tasks, to_come)
        self.store.sync(tasks, to_come)
        return joined_left

    def _join_and_scan(self, tasks: Sequence[GridPoint], to_come: Mapping[Grid, int]) -> tuple[int, int]:
        with self.dispatcher.assigning:  # no task that has its row already is assigned meanwhile
            counts = self._join(tasks, to_come)
            self.store.scan_all()
            return counts

    def _start_searches(self) -> None:
        self._searches.start(self._take_up_new, self._join_and_scan)

    def _take_up_new(self) -> None:
        """Tasks of a search have joined: complete those whose work is done, assign the others."""
        copy_duplicate_rows(self.queue, self.store, self.dispatcher.code)
        self.dispatcher.look_again()

    def stop(self) -> None:
        """Answer `restarting` from now on, close connections and files. Workers outlive it."""
        self.dispatcher.stop()
        self._server.stop()
        log.info("Manager stopped at %s", self.dispatcher.status().progress)
        self._note_unseen()
        if self._is_done:
            with suppress(UserError):  # a full disk: late workers wait as for a restart
                self.workdir.announce_end()
        if self._ending.why_left:
            with suppress(UserError):  # the log has it
                self.workdir.announce_left(self._ending.why_left)
        try:
            with suppress(JournalUnwritable) if self._is_lost else nullcontext():
                self._held.close()
        finally:
            self._hooks.look(has_ended=self._is_done)  # the last report may have come after the last turn
            self._hooks.close(self._signals_after(self._signals))
            self._log_open.close()  # only now: the last command may have failed
            gc.take_back()

    def view(self) -> ViewReply | None:
        """Return the sweep at a glance; None before it is served.  Safe from any thread."""
        return self.dispatcher.view() if self._is_serving else None

    def starting(self) -> Step | None:
        """Return what a start that takes long does now.  Safe from any thread."""
        return self._starting.now()

    def request_stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End `serve` after its current turn. A signal handler: it only sets a flag."""
        self._signals += 1
        self._is_stopping = True

    def _signals_after(self, known: int) -> Callable[[], bool]:
        return lambda: self._signals > known

    def stop_on_signals(self) -> None:
        """Let Ctrl+C, SIGTERM and SIGHUP stop the manager in good order. For the main thread.

        SIGHUP stays ignored where it is already, by `nohup`; so may SIGINT be, but then by the shell that
        started this in the background.
        """
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            is_nohup = name == "SIGHUP" and number and signal.getsignal(number) is signal.SIG_IGN
            if number is not None and not is_nohup:
                signal.signal(number, self.request_stop)

    @property
    def port(self) -> int:
        """The port that is served."""
        return self._server.port

    # -- one turn ------------------------------------------------------------------------------------------

    def run_once(self) -> None:
        """Look at the leases; every `rescan_s` also at results and configs; see whether all is done."""
        self._network.write_pulse()
        if not self._holds_folder():
            log.error("Stopping: %s", self._network.lost_to or DELETED.format(self.workdir.state))
            self._is_lost = True
            self.request_stop()
            return
        self._end_leases()
        if time.monotonic() >= self._next_rescan_s:
            try:
                self.rescan()
            except OSError as error:  # its drive is away, or no more files may be opened
                log.warning("Cannot look for results and configs (%s); the next rescan tries again", error)
            self._next_rescan_s = time.monotonic() + self._rescan_s
        self._hooks.look()
        stuck = self._stuck | self._unreadable
        self._ending.look(stuck)
        if self._exit_when_done and self._ending.is_due(stuck):
            self._is_done = True
            self.request_stop()
        situation = (self.queue.counts(), self.dispatcher.held_text(), self.dispatcher.is_ending)
        if situation != self._last_situation:
            self._last_situation = situation
            self.dispatcher.look_again()

    def rescan(self) -> None:
        """Take up what changed on disk: rows first, then configs; whatever is unreadable changes nothing."""
        self.store.scan_all()
        self.dispatcher.completion.write_kept_rows()
        self.dispatcher.completion.first_rows.look()
        self._searches.take_up_rows()
        self.dispatcher.code.say_change()
        self._registry.compare_commits(lambda: commit_of(self.workdir.root))
        if self._sweep.has_changed():
            self._reload()
        if self._held_code.was_edited():
            self.dispatcher.code_changed()
        self._block_unwritable()
        copy_duplicate_rows(self.queue, self.store, self.dispatcher.code)
        self.dispatcher.completion.fail_unplaceable()
        self._note_unseen()
        with suppress(JournalUnwritable):
            self.journal.flush()
        counts = self.queue.counts()
        if counts != self._last_counts:
            status = self.dispatcher.status()
            log.info(
                "Progress %s: %d assigned, %d failed, %s",
                *(status.progress, status.assigned, status.failed, count_text(status.workers, "worker")),
            )
        self._last_counts = counts
        self.dispatcher.look_again()  # also without a change: some tasks become free by time alone

    def _reload(self) -> None:
        try:
            tasks = self._sweep.load()
        except ConfigError as error:
            for problem in error.problems:
                log.error("%s", problem)
            log.error("The sweep goes on as it was until the config files are fixed")
            return

        joined = self._searches.sync(self._sweep.phases, tasks, self._join_and_scan)
        self._start_searches()
        self.dispatcher.sweep_changed()
        self.dispatcher.rungs.continue_pruned()
        log.info("Configs changed: generated %d total tasks (%d new, %d withdrawn)", *joined)

    def _holds_folder(self) -> bool:
        try:
            return not self._network.lost_to and self._folder.is_at(self._folder_lock)
        except NotADirectoryError:
            return False

    def _note_unseen(self) -> None:
        """Let the journal remember for how long the workers of earlier leases have been waited for."""
        now_s = self.queue.now_s()
        self.queue.update_leases(lambda lease: lease.waited(now_s), is_recorded=True)

    def _on_pause(self, seconds: float) -> None:
        """Give every lease a fresh term: no worker is to blame for the manager's own sleep."""
        now_s = self.queue.now_s()
        self.queue.update_leases(lambda lease: lease.extended(seconds, now_s))
        log.warning("The manager did not run for %.0f s; every worker gets as long as usual", seconds)

    def _end_leases(self) -> None:
        now_s = self.queue.now_s()
        if not self._pauses.is_awake():
            return  # it has slept, and the clock thread has not noticed yet
        self._unreadable.clear()
        for lease in self.queue.overdue(now_s):
            if not self._registry.is_ending(lease.worker):
                self.dispatcher.completion.lose(lease, "no sign of life")
                self._note_if_unreadable(lease)
        for lease in self._registry.unconnected(self.queue.leases()):
            if self._registry.has_died(lease.worker):
                self.dispatcher.completion.lose(lease, "its process is gone")
                self._note_if_unreadable(lease)
            elif (stuck := self._registry.stuck(lease.worker)) and lease.lease_id not in self._stuck:
                self._stuck.add(lease.lease_id)
                log.error(
                    "Task %s is not assigned again: its worker %s has died, and %s of the task does not end",
                    *(lease.task.task_id, lease.worker.name, stuck),
                )

    def _note_if_unreadable(self, lease: Lease) -> None:
        """Wait no more for a lease that cannot end since its results file could not be read for a rescan.

        Until its worker is back.
        """
        if self.queue.is_live(lease) and lease.task.output_dir in self._unwritable:
            self._unreadable.add(lease.lease_id)

    def _block_unwritable(self) -> None:
        """Assign no task whose results file cannot be written, and say once which file and why."""
        problems = self.store.problems()
        for folder, why in problems.items():
            if self._unwritable.get(folder) != why and not self.store.is_unusable(folder):
                log.error("%s; its tasks wait, other tasks go on", why)
        for folder in self._unwritable.keys() - problems.keys():
            log.info("Tasks of %s go on: its results file can be written again", folder)
        self._unwritable = problems
        self.queue.block(problems.keys())

    # -- what others report --------------------------------------------------------------------------------

    def _on_scan(self, scan: Scan) -> None:
        for note in scan.notes:
            log.info("%s", note)
        for warning in scan.warnings:
            log.warning("%s", warning)
        self.dispatcher.completion.finished(scan.complete, scan.pruned)
        if scan.vanished:
            entries = {key: self.queue.entry(key) for key in scan.vanished if self.queue.knows(key)}
            names = sorted(entries[key].task.task_id if key in entries else key for key in scan.vanished)
            log.warning(
                "Rows of %d complete tasks have vanished (%s%s); `requeue --missing` runs them again",
                *(len(names), ", ".join(names[:3]), ", ..." if len(names) > 3 else ""),
            )
