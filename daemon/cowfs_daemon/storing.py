"""A service manager that keeps descriptors over the death of its service (systemd: FDSTORE, see sd_notify(3)).

Of each mount it gets two under one name: the /dev/fuse descriptor, and a memory file with the rest. Standard library
only.
"""

import array
import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping
from typing import Any

NOTIFY, COUNT, PID, NAMES = "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"
FIRST_FD = 3
_PREFIX = "mount-"
_FIELDS_MAX = 64 * 1024


class FdStore:
    """The service manager. One that is gone, or refuses, is no error: then nothing outlives the keeper."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def store(self, key: str, fields: Any, descriptor: int) -> None:
        """Have it keep a mount; what it had under that key goes."""
        self.remove(key)
        memory = os.memfd_create("cowfs-mount", os.MFD_CLOEXEC)
        try:
            os.write(memory, json.dumps(fields).encode())
            self._say(f"FDSTORE=1\nFDNAME={_PREFIX}{key}", descriptor, memory)
        finally:
            os.close(memory)

    def remove(self, key: str) -> None:
        """Have it forget a mount."""
        self._say(f"FDSTOREREMOVE=1\nFDNAME={_PREFIX}{key}")

    def ready(self) -> None:
        """The service has started."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The service is about to end in good order."""
        self._say("STOPPING=1")

    def _say(self, text: str, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with contextlib.suppress(OSError):
            self._sock.sendmsg([text.encode()], rights, 0, self._address)


def manager_address(environment: MutableMapping[str, str]) -> str:
    """Where the service manager listens that started this process, "" without one; no child gets to know it."""
    address = environment.pop(NOTIFY, "")
    return address if address[:1] in ("/", "@") and len(address) > 1 else ""


def handed_in(environment: MutableMapping[str, str]) -> Iterator[tuple[str, Any, int]]:
    """(key, fields, descriptor) of each mount that the service manager kept. What makes no sense is closed."""
    names = environment.pop(NAMES, "").split(":")
    count, pid = environment.pop(COUNT, ""), environment.pop(PID, "")
    if not count.isdigit() or pid != str(os.getpid()):
        return
    devices: dict[str, int] = {}
    fields: dict[str, Any] = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + min(int(count), len(names))), names, strict=False):
        os.set_inheritable(fd, False)
        key = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and stat.S_ISCHR(os.fstat(fd).st_mode) and key not in devices:
            devices[key] = fd
            continue
        with contextlib.suppress(OSError, ValueError):
            fields[key] = json.loads(os.pread(fd, _FIELDS_MAX, 0))
        os.close(fd)
    for key, fd in devices.items():
        if isinstance(fields.get(key), dict):
            yield key, fields[key], fd
        else:
            os.close(fd)
