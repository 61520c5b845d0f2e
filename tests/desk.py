"""A task queue with its clock and its records, to test lending with."""

from distexp.queue.entry import Borrower, Lease
from distexp.queue.task_queue import TaskQueue
from distexp.task import Cause, State, Task, TaskRecord
from tests.row_cases import tasks_of
from tests.support import Clock

CPU0, CPU1 = Borrower("cpu0", 15.0), Borrower("cpu1", 15.0)


class Desk:
    """A queue of tasks with its clock and what it has recorded."""

    def __init__(self, tasks: list[Task] | int = 1) -> None:
        self.tasks = tasks_of(tasks) if isinstance(tasks, int) else tasks
        self.clock, self.records = Clock(), list[TaskRecord]()
        self.queue = TaskQueue(self.clock, self.records.append)
        self.queue.sync(self.tasks)
        self.key = self.tasks[0].key

    def lend(self, borrower: Borrower = CPU0) -> Lease:
        lease = self.queue.lend(borrower)
        assert lease is not None
        return lease

    def state(self, task: Task | None = None) -> State:
        return self.queue.entry((task or self.tasks[0]).key).state

    def reach(self, state: State) -> None:
        """Bring the first task into a state by the public doors alone."""
        match state:
            case State.ASSIGNED:
                self.lend()
            case State.COMPLETE:
                self.queue.complete(self.key)
            case State.FAILED:
                lease = self.lend()
                self.queue.fail(lease.lease_id, self.key, Cause.ERROR, "no", retry=False)
            case State.CANCELLED:
                self.queue.cancel(self.key)
            case State.WITHDRAWN:
                self.queue.sync(self.tasks[1:])
