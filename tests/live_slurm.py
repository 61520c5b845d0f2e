"""A real Slurm on 127.0.0.1, in a folder of its own: munged, slurmctld, slurmd; perhaps a second node."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.live_worker import marked_processes
from tests.support import poll

LAUNCHER = Path(__file__).parent.parent / "launch_distributed.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
DEADLINE_S = 120.0
HOST = socket.gethostname().split(".")[0]  # the name of the first node
MARK = "DISTEXP_SLURM_TEST"  # in the environment of all that belongs to one cluster

# cred_expire: how long a job that was requeued waits. config_overrides: the node is as large as it says here.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=10
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ctld_port}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 Port={d_port} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=both Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1
"""


def why_no_slurm() -> str:
    """Return why a cluster cannot be started here; empty when it can."""
    missing = [
        name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "the daemons of Slurm need root"


@dataclass
class Cluster:
    """The daemons, and what users call."""

    root: Path
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return str(self.root)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{os.environ['PATH']}:/usr/sbin"
        ours = {
            "SLURM_CONF": str(self.root / "slurm.conf"),
            MARK: self.mark,
            "DISTEXP_PYTHON": sys.executable,
        }
        return {**os.environ, **ours, "PATH": path}

    def start(self, program: str, *words: str, name: str = "") -> None:
        """Start a daemon in the foreground of a session of its own."""
        name = name or program
        with open(self.root / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(
                [program, *words], stdout=output, stderr=output, env=self.environment, start_new_session=True
            )

    def start_node(self, node: str = HOST) -> None:
        """Start the slurmd of a node and wait until jobs may run there."""
        name = "slurmd" if node == HOST else f"slurmd of {node}"
        self.start("slurmd", "-D", "-f", str(self.root / "slurm.conf"), "-N", node, name=name)
        poll(
            lambda: (
                set(self.say("sinfo", "-h", "-n", node, "-o", "%T").split()) <= {"idle", "mixed", "allocated"}
            ),
            f"node {node}",
            DEADLINE_S,
        )

    def kill(self, name: str) -> None:
        process = self.daemons.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def say(self, *words: str, input: str | None = None) -> str:
        """Return what a program prints, errors too."""
        called = subprocess.run(
            words,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            check=False,
        )
        return called.stdout.strip()

    def submit(self, folder: Path, count: int, *options: str, words: Sequence[str] = ()) -> str:
        """Return the id of the array of jobs that the launcher submits for the manager of `folder`."""
        about = ("--device", "cpu", "--workdir", str(folder), *words)
        told = self.say("bash", str(LAUNCHER), "slurm", str(count), *about, "--", *options)
        job = re.search(r"Submitted batch job (\d+): \d+ worker", told)
        assert job is not None, told
        return job[1]

    def states(self, array: str) -> list[str]:
        """Return the states of the jobs of an array, in the order of their numbers."""
        told = self.say("scontrol", "--oneliner", "show", "job", array)
        found = re.findall(r"ArrayTaskId=(\S+) .*?JobState=(\S+) ", told)
        return [state for _, state in sorted(found)]

    def await_states(self, array: str, *states: str) -> None:
        poll(lambda: self.states(array) == list(states), f"{array} is {states}", DEADLINE_S)


def free_ports(count: int) -> list[int]:
    """Return ports that stay free: none of those that the system hands out to whoever wants any.

    Where it hands out nearly all, they are any that are free now.
    """
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    kept = range(10_000, int(text.split()[0]))
    found = list[int]()
    for port in random.sample(kept if len(kept) >= 1000 else range(10_000, 60_000), 1000):
        with socket.socket() as tried, suppress(OSError):  # somebody has it
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


@contextmanager
def cluster_in(root: Path) -> Iterator[Cluster]:
    """A cluster; at the end all that belongs to it is killed, by pid."""
    cluster = Cluster(root)
    ports = free_ports(3)
    conf = root / "slurm.conf"
    named = dict(zip(("ctld_port", "d_port", "second_port"), ports, strict=True))
    conf.write_text(CONF.format(root=root, host=HOST, **named), encoding="ascii")
    for name in ("state", f"spool-{HOST}", "spool-second"):
        (root / name).mkdir()
    key = root / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    try:
        files = {
            "key-file": "key",
            "socket": "sock",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        flags = [f"--{flag}={root}/munge.{end}" for flag, end in files.items()]
        cluster.start("munged", "--force", "--foreground", *flags)
        poll((root / "munge.sock").exists, "munged", DEADLINE_S)
        cluster.start("slurmctld", "-D", "-f", str(conf))
        poll(lambda: "is UP" in cluster.say("scontrol", "ping"), "slurmctld", DEADLINE_S)
        cluster.start_node()
        yield cluster
    finally:
        for name in list(cluster.daemons):
            cluster.kill(name)
        for process in marked_processes(str(root)):
            process.kill()
