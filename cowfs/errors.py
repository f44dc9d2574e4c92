"""The errors of cowfs: one root, six branches, named by what the caller must do.

errno, HTTP status and exit code are class data; nothing else maps them. This module imports
nothing, so that both the engine and the client can share it. File operations of a view raise
plain ``OSError`` with the errno that Linux documents for the system call instead.
"""

import errno as _errno
from typing import ClassVar


class CowfsError(Exception):
    """Something cowfs could not do: ``str(error)`` says what and why, ``hint`` what to do next."""

    code: ClassVar[str] = "internal"
    errno: ClassVar[int] = _errno.EIO
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(CowfsError):
    """The request itself is wrong (a malformed name, reference or option, a missing right): change it."""

    code = "invalid"
    errno = _errno.EINVAL
    http_status = 400
    exit_code = 2


class NotFound(CowfsError):
    """What the request names does not exist: name something else."""

    code = "not_found"
    errno = _errno.ENOENT
    http_status = 404
    exit_code = 3


class Conflict(CowfsError):
    """The request contradicts what exists (a taken name, a foreign snapshot): choose another way."""

    code = "conflict"
    errno = _errno.EEXIST
    http_status = 409
    exit_code = 4


class Busy(CowfsError):
    """Something is in use right now: wait, stop it, or force."""

    code = "busy"
    errno = _errno.EBUSY
    http_status = 423
    exit_code = 5


class Corrupt(CowfsError):
    """Stored bytes are damaged or of an unknown version: run ``cowfs fsck``, or upgrade."""

    code = "corrupt"
    errno = _errno.EIO
    http_status = 500
    exit_code = 6


class NoSpace(CowfsError):
    """The disk, a quota or a table is full: free space and try again."""

    code = "no_space"
    errno = _errno.ENOSPC
    http_status = 507
    exit_code = 7
