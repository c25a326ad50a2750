"""A real Slurm of one node for tests: munged, slurmctld and slurmd in a folder of their own, as root, without systemd.

Two kinds of partition: `debug` (the default) is preempted, by requeueing, by `urgent`; `calm` is left alone. The node
says that it has three CPUs, whatever the machine has. There is no accounting: submitit asks sacct, a stand-in asks
scontrol.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")

CONF = """
ClusterName=fade
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=preempt_youngest_first
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=2
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=3 RealMemory={memory}
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=calm Nodes={host} MaxTime=INFINITE PriorityTier=10
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=10
"""

SACCT = """#!{python}
import re, subprocess, sys
print("JobID|State|NodeList")
for name in (b for a, b in zip(sys.argv, sys.argv[1:]) if a == "-j"):
    said = subprocess.run(["scontrol", "-o", "show", "job", name], capture_output=True, text=True).stdout
    for line in said.splitlines():
        job = dict(re.findall(r"(\\w+)=(\\S*)", line))
        place = f"{{job['ArrayJobId']}}_{{job['ArrayTaskId']}}" if "ArrayJobId" in job else job["JobId"]
        print(f"{{place}}|{{job['JobState']}}|{{job.get('NodeList', '')}}")
"""


def missing() -> str | None:
    """Why there can be no cluster here."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no Slurm on this machine ({absent[0]}); Debian: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "a Slurm for tests is started as root"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Cluster:
    """Started by `with`; `env` is what clients need. Everything lies in `folder` (short: it holds a socket)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, list[subprocess.Popen[bytes]]()
        self.host = socket.gethostname().split(".")[0]
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}

    def __enter__(self) -> Cluster:
        for name in ("ctld", "d", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        settings = {"folder": self.folder, "host": self.host, "memory": memory, "ctld": free_port(), "d": free_port()}
        (self.folder / "slurm.conf").write_text(CONF.format(**settings))
        sacct = self.folder / "bin" / "sacct"
        sacct.write_text(SACCT.format(python=sys.executable))
        sacct.chmod(0o755)
        try:
            self._start(
                "munged",
                "--foreground",
                "--force",
                f"--key-file={key}",
                f"--socket={self.folder}/munge.socket",
                f"--pid-file={self.folder}/munged.pid",
                f"--log-file={self.folder}/munged.log",
                f"--seed-file={self.folder}/munged.seed",
            )
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", self.host)
            self._wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.daemons:
            subprocess.run(["scancel", "--user=root"], env=self.env, capture_output=True, timeout=30, check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            self.daemons.append(subprocess.Popen(command, env=self.env, stdout=out, stderr=subprocess.STDOUT))

    def _wait_until_idle(self, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            said = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=self.env, capture_output=True, text=True, check=False
            )
            if "idle" in said.stdout:
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log"))
        raise RuntimeError(f"no idle node after {seconds:.0f} s: {said.stdout}{said.stderr}\n{logs}")

    def do(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True, timeout=60).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """What scontrol says of every task, by its name (12_3, or 12 for a job of its own)."""
        found = {}
        for line in self.do("scontrol", "-o", "show", "job").splitlines():
            job = dict(re.findall(r"(\w+)=(\S*)", line))
            if "JobId" in job:
                found[f"{job['ArrayJobId']}_{job['ArrayTaskId']}" if "ArrayJobId" in job else job["JobId"]] = job
        return found
