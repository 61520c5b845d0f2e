"""Every error that the package raises deliberately, as one tree.

::

    DistexpError
    +-- UserError              the user's: one line (where, what is wrong, what to do), exit code 2
    |   +-- ConfigError        one or more problems in config files, all of them listed
    |   +-- TokenIncomplete    a token file that ends in the middle: somebody copies it just now
    |   +-- AlreadyRunning     another manager holds the folder, or a program holds the port
    |   +-- NoGpuError         no GPU qualifies; lists every GPU with its free memory
    |   +-- GitTimeout         git has not answered; nobody knows what it would have said
    +-- ProtocolError          the peer's: a message that is refused
    |   +-- Unauthorized       the secret is missing or wrong
    |   +-- Refused            what the manager said to a request that it does not grant
    +-- ManagerUnreachable     no manager answers; the caller may try again
    |   +-- OtherManager       one answers, but not that of the token
    +-- ResultsUnwritable      a CSV or spool file cannot be written now; try again later
    |   +-- DiskHangs          a disk has not answered for so long that nobody waits for it any more
    +-- SamplerFailed          the process that chooses for an adaptive search has ended
    +-- JournalUnwritable      the journal cannot be written now; nothing was acknowledged
    +-- TaskStopped            raised by an experiment that was asked to stop and has saved its checkpoint
    +-- UnknownTask            a task, lease or worker that the manager does not know
    +-- IllegalTransition      ours: a state change that is not in the table; nothing was changed
"""

from collections.abc import Sequence


class DistexpError(Exception):
    """Base of every deliberate error of this package."""


class UserError(DistexpError):
    """Something the user can fix. The message is one line: where, what is wrong, what to do."""


class ConfigError(UserError):
    """Config files that cannot be used. `problems` holds one line per problem, of all files."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class TokenIncomplete(UserError):
    """A token file that ends in the middle, as while it is copied. The message names it."""


class AlreadyRunning(UserError):
    """Another manager holds this folder, or another program holds the port. Names pid and port."""


class NoGpuError(UserError):
    """No GPU qualifies. The message lists every GPU with its free memory, or says why none was seen."""


class GitTimeout(UserError):
    """Git has not answered in time, as in a large repository on a slow disk. That is not to have no git."""


class ProtocolError(DistexpError):
    """A message that is refused: malformed, too large, too slow, or of unknown fields."""


class Unauthorized(ProtocolError):
    """The secret is missing or wrong. The message says where the right one is found."""


class Refused(ProtocolError):
    """The manager does not grant a request. The message is the manager's."""


class ManagerUnreachable(DistexpError):
    """No manager answers. The message holds address and cause."""


class OtherManager(ManagerUnreachable):
    """A manager answers whose certificate is not that of the token. No secret was sent."""


class ResultsUnwritable(DistexpError):
    """A results file cannot be written now (full disk, open in Excel, no permission); nothing was written."""


class DiskHangs(ResultsUnwritable):
    """A disk has not answered, and nobody waits for it any more; what was asked of it may still happen."""


class JournalUnwritable(DistexpError):
    """The journal cannot be written now; what it was to hold stays queued for the next try."""


class TaskStopped(DistexpError):
    """The experiment was asked to stop and has saved its checkpoint; the task is given back without cost."""


class SamplerFailed(DistexpError):
    """The process that chooses for an adaptive search has ended, or does not answer; another may."""


class UnknownTask(DistexpError):
    """No such task, lease or worker. The message says what was asked for."""


class IllegalTransition(DistexpError):
    """A state change that is not in the table of `entry`; nothing was changed."""
