"""A process that lists directories of mounts, for the one that serves them: ``python listing.py SOCKET``.

It holds no FUSE connection. Were a thread of the serving process to list, and that process killed with its request read
and unanswered, it could not end before somebody answered; this one is let go with the connection. It ends with its
socket, or is killed with who started it; then its first thread ends at once, which says that it does no harm any more
(:mod:`cowfs_daemon.lingering`).

Standard library only, and not even ``site``: it is started by its path.
"""

import array
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import threading

REQUEST = struct.Struct("<QQQII")
"""A number of the request, inode, cookie, generation, bytes to list; then a path from the descriptor that comes with
it, if inodes cannot be opened by number."""

REPLY = struct.Struct("<QQi")
"""The number of the request, the cookie that was reached; 0, an errno, or :data:`END`."""

READY = REPLY.pack(0, 0, 0)
"""Sent first."""

AT_ONCE = 24
"""Requests that are carried out at a time."""

END = -1
"""There is nothing behind the cookie."""

PATH_MAX = 4096

_HANDLE = struct.Struct("<IiIII")
_FILEID_FUSE = 0x81
_PR_SET_PDEATHSIG = 1
_DIRENT = struct.Struct("<8xQH")
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_libc = ctypes.CDLL(None, use_errno=True)


def handle(ino: int, generation: int) -> ctypes.Array[ctypes.c_char]:
    """The file handle of an inode of a FUSE mount, for open_by_handle_at(2)."""
    return ctypes.create_string_buffer(_HANDLE.pack(12, _FILEID_FUSE, ino >> 32, ino & 0xFFFFFFFF, generation))


def checked(result: int) -> int:
    """What a function of libc returned. Raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def list_some(fd: int, cookie: int, size: int) -> tuple[int, int]:
    """List a directory from a cookie on; (cookie reached, 0 or END). Raises OSError.

    By getdents64(2): the size of its buffer is that of the kernel's one request (a page before Linux 6.16).
    """
    buffer = ctypes.create_string_buffer(size)
    os.lseek(fd, cookie, os.SEEK_SET)
    filled = checked(_libc.getdents64(fd, buffer, size))
    at = 0
    while at < filled:
        cookie, length = _DIRENT.unpack_from(buffer, at)
        at += length
    return cookie, 0 if filled else END


def answer(message: bytes, root: int) -> tuple[int, int]:
    """Carry out one request. Raises OSError."""
    _, ino, cookie, generation, size = REQUEST.unpack_from(message)
    path = message[REQUEST.size :]
    if path:
        fd = os.open(path, _FLAGS | os.O_NOFOLLOW, dir_fd=root)
    else:
        fd = checked(_libc.open_by_handle_at(root, handle(ino, generation), _FLAGS))
    try:
        if path and os.fstat(fd).st_ino != ino:  # renamed meanwhile, or something is mounted in the way
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return list_some(fd, cookie, size)
    finally:
        os.close(fd)


def serve(sock: socket.socket) -> None:
    """Answer until the other end is gone."""
    room = socket.CMSG_SPACE(4)
    while True:
        message, control, _, _ = sock.recvmsg(REQUEST.size + PATH_MAX, room, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        (root,) = array.array("i", control[0][2][:4])
        try:
            reply = answer(message, root)
        except OSError as error:
            reply = (0, error.errno or errno.EIO)
        finally:
            os.close(root)
        sock.send(REPLY.pack(*REQUEST.unpack_from(message)[:1], *reply))


def run(sock: socket.socket) -> None:
    """Serve; whatever goes wrong ends the process, which tells who waits for a reply."""
    try:
        serve(sock)
    except BaseException:
        os._exit(1)


def main() -> None:
    """List in threads; each takes the next request."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sock = socket.socket(fileno=int(sys.argv[1]))
    threads = [threading.Thread(target=run, args=[sock], daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    sock.send(READY)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
