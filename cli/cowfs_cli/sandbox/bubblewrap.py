"""The command line of bubblewrap (bwrap, Debian's package ``bubblewrap``) for a program in a workspace."""

import os
import shutil
from dataclasses import dataclass, field

from cowfs.errors import NotFound

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
)  # fmt: skip
"""What root inside may do: what a package manager needs, and nothing about the machine (as docker's, without MKNOD,
NET_RAW and AUDIT_WRITE)."""

MEMORY = ("/run", "/dev/shm")
MOUNT_POINTS = ("/proc", "/dev", "/run", "/tmp")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Sandbox:
    """``root``: where the workspace is mounted. ``kept``: (path inside, directory outside); ``memory``: paths inside;
    ``shown``: as ``kept``, to look at only.

    ``workdir`` is inside. ``host_network``: else there is only a loopback device of its own.
    """

    root: str
    hostname: str
    kept: list[tuple[str, str]] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)
    host_network: bool = False
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)

    def mount_points(self) -> list[str]:
        """Directories that must be in the workspace."""
        return [*MOUNT_POINTS, *(path for path, _ in self.kept), *self.memory]

    def words(self, program: str, command: list[str], terminal: bool) -> list[str]:
        """The command line. ``program``: bwrap. ``terminal``: leave the program its controlling terminal."""
        words = [program, "--bind", self.root, "/", "--proc", "/proc", "--dev", "/dev"]
        for path in (*MEMORY, *self.memory):
            words += ["--tmpfs", path]
        for path, outside in self.kept:
            words += ["--bind", outside, path]
        for path, outside in self.shown:
            words += ["--ro-bind", outside, path]
        words += ["--unshare-user", "--uid", "0", "--gid", "0"] if os.geteuid() else []
        words += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        words += ["--hostname", self.hostname]
        words += [] if self.host_network else ["--unshare-net"]
        words += ["--die-with-parent"] + ([] if terminal else ["--new-session"])
        words += ["--cap-drop", "ALL"]
        for capability in CAPABILITIES:
            words += ["--cap-add", f"CAP_{capability}"]
        words += ["--clearenv", "--chdir", self.workdir]
        variables = {"PATH": PATH, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb")}
        for name, value in (variables | self.environment).items():
            words += ["--setenv", name, value]
        return [*words, "--", *command]


def find() -> str:
    """Where bwrap is. Raises NotFound."""
    program = shutil.which("bwrap")
    if program is None:
        raise NotFound("bubblewrap is not installed", hint="apt-get install bubblewrap")
    return program
