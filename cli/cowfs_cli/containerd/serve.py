"""containerd's snapshots service (gRPC) on a Unix socket: translates between messages and :class:`Snapshots`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs_cli.adapter.foreground import private_socket
from cowfs_cli.containerd import filters, messages
from cowfs_cli.containerd.snapshots import ACTIVE, COMMITTED, VIEW, Info, Mount, Snapshots, Unfit

REQUEST_BYTES: Final = 256 * 1024
THREADS: Final = 8
REQUESTS_MAX: Final = 64
"""At once; more are refused."""

LISTED: Final = 100
"""Snapshots in one message of a list."""

GRACE_SECONDS: Final = 5.0
_KINDS: Final = {VIEW: messages.VIEW, ACTIVE: messages.ACTIVE, COMMITTED: messages.COMMITTED}
_STATUS: Final = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unfit: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    Busy: grpc.StatusCode.FAILED_PRECONDITION,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class _Service:
    """One method for each of the service: request -> fields of the answer, or a stream of them."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def prepare(self, request: Any) -> dict[str, Any]:
        return _mounts(self._snapshots.prepare(request.key, request.parent, dict(request.labels)))

    def view(self, request: Any) -> dict[str, Any]:
        return _mounts(self._snapshots.prepare(request.key, request.parent, dict(request.labels), kind=VIEW))

    def mounts(self, request: Any) -> dict[str, Any]:
        return _mounts(self._snapshots.mounts(request.key))

    def commit(self, request: Any) -> dict[str, Any]:
        self._snapshots.commit(request.name, request.key, dict(request.labels))
        return {}

    def remove(self, request: Any) -> dict[str, Any]:
        self._snapshots.remove(request.key)
        return {}

    def stat(self, request: Any) -> dict[str, Any]:
        return {"info": _shape(self._snapshots.stat(request.key))}

    def update(self, request: Any) -> dict[str, Any]:
        fields = list(request.update_mask.paths)
        return {"info": _shape(self._snapshots.update(request.info.name, dict(request.info.labels), fields))}

    def list(self, request: Any) -> Iterator[dict[str, Any]]:
        wanted = filters.parse(list(request.filters))
        found = [_shape(info) for info in self._snapshots.all() if wanted(info)]
        for at in range(0, len(found), LISTED):
            yield {"info": found[at : at + LISTED]}

    def usage(self, request: Any) -> dict[str, Any]:
        size, inodes = self._snapshots.usage(request.key)
        return {"size": size, "inodes": inodes}

    def cleanup(self, _: Any) -> dict[str, Any]:
        self._snapshots.cleanup()
        return {}


def _mounts(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "ro" if mount.read_only else "rw"]
    return {"mounts": [{"type": "bind", "source": mount.source, "options": options}]}


def _shape(info: Info) -> dict[str, Any]:
    return {
        "name": info.key, "parent": info.parent, "kind": _KINDS.get(info.kind, messages.UNKNOWN), "labels": info.labels,
        "created_at": _time(info.created), "updated_at": _time(info.updated),
    }  # fmt: skip


def _time(at: int) -> dict[str, int]:
    return {"seconds": at // 1_000_000_000, "nanos": at % 1_000_000_000}


def _refuse(context: Any, error: Exception) -> NoReturn:
    if isinstance(error, CowfsError):
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), grpc.StatusCode.INTERNAL)
        context.abort(status, error.message + (f" ({error.hint})" if error.hint else ""))
    context.abort(grpc.StatusCode.INTERNAL, f"cowfs failed: {type(error).__name__}")
    raise AssertionError("abort raises")


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Invalid("the request cannot be decoded") from None


def _unary(call: Callable[[Any], dict[str, Any]], asked: Any, answered: Any) -> Any:
    def handle(data: bytes, context: Any) -> bytes:
        try:
            return bytes(answered(**call(_parsed(asked, data))).SerializeToString())
        except Exception as error:
            _refuse(context, error)

    # Decoded here and not by the library, which would call what is malformed an internal error.
    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(call: Callable[[Any], Iterator[dict[str, Any]]], asked: Any, answered: Any) -> Any:
    def handle(data: bytes, context: Any) -> Iterator[bytes]:
        try:
            for each in call(_parsed(asked, data)):
                yield answered(**each).SerializeToString()
        except Exception as error:
            _refuse(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


@contextmanager
def serving(snapshots: Snapshots, path: str) -> Iterator[None]:
    """The service at the socket ``path``, mode 0600, until the end of the context. Raises Invalid, Conflict."""
    service = _Service(snapshots)
    handlers = {}
    for name, kinds in messages.METHODS.items():
        asked, answered = map(messages.message, kinds)
        handlers[name] = (_stream if name == "List" else _unary)(getattr(service, name.lower()), asked, answered)
    server = grpc.server(
        futures.ThreadPoolExecutor(THREADS, thread_name_prefix="snapshotter"),
        handlers=(grpc.method_handlers_generic_handler(messages.SERVICE, handlers),),
        options=(("grpc.max_receive_message_length", REQUEST_BYTES), ("grpc.so_reuseport", 0)),
        maximum_concurrent_rpcs=REQUESTS_MAX,
    )
    with private_socket(path, lambda at: _bind(server, at)):
        server.start()
        try:
            yield
        finally:
            server.stop(GRACE_SECONDS).wait()


def _bind(server: Any, path: str) -> None:
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise Conflict(f"cannot serve at {path}", hint="name another path with --socket") from None
