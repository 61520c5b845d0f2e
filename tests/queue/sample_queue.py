"""A task queue with its clock and its records, to test assigning with."""

from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.records import TaskRecord
from distexp.queue.task_queue import TaskQueue
from distexp.task import Cause, State, Task
from tests.row_cases import tasks_of
from tests.support import Clock

CPU0, CPU1 = WorkerInfo("cpu0", 15.0), WorkerInfo("cpu1", 15.0)


class SampleQueue:
    """A queue of tasks with its clock and what it has recorded."""

    def __init__(self, tasks: list[Task] | int = 1) -> None:
        self.tasks = tasks_of(tasks) if isinstance(tasks, int) else tasks
        self.clock, self.records = Clock(), list[TaskRecord]()
        self.queue = TaskQueue(self.clock, self.records.append)
        self.queue.sync(self.tasks)
        self.key = self.tasks[0].key

    def assign(self, worker: WorkerInfo = CPU0) -> Lease:
        lease = self.queue.assign(worker)
        assert lease is not None
        return lease

    def state(self, task: Task | None = None) -> State:
        return self.queue.entry((task or self.tasks[0]).key).state

    def reach(self, state: State) -> None:
        """Bring the first task into a state, by what is public alone."""
        match state:
            case State.ASSIGNED:
                self.assign()
            case State.COMPLETE:
                self.queue.complete(self.key)
            case State.FAILED:
                lease = self.assign()
                self.queue.fail(lease.lease_id, self.key, Cause.ERROR, "no", retry=False)
            case State.CANCELLED:
                self.queue.cancel(self.key)
            case State.PRUNED:
                self.queue.complete(self.key, State.PRUNED)
            case State.WITHDRAWN:
                self.queue.sync(self.tasks[1:])
