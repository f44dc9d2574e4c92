"""``python -m cowfs_daemon run|supervise|foreground|init|fsck|repair|connections --store DIR``: what the CLI starts, so
that it need not import the engine.

``run`` is the keeper, which starts ``supervise``, which serves until stopped. ``foreground`` serves one workspace
through pyfuse3, without either. ``init``, ``fsck``, ``repair`` and ``connections`` need no daemon and print one JSON
object, as does ``version``.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from cowfs.errors import CowfsError, Invalid
from cowfs_daemon import logs
from cowfs_daemon.start import Ready, detach, raise_limits


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="cowfs_daemon", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("version")
    for name in ("run", "supervise", "foreground", "init", "fsck", "repair", "connections"):
        verb = verbs.add_parser(name)
        verb.add_argument("--store", required=True)
        if name == "run":
            verb.add_argument("--detach", action="store_true", help="go to the background")
            verb.add_argument("--resume", type=int, help="what this process left before it executed this program")
        if name == "supervise":
            verb.add_argument("--keeper-fd", type=int, help="the keeper's socket")
            verb.add_argument("--keeper-protocol", type=int, help="what the keeper speaks")
            verb.add_argument("--fd-stored", action="store_true", help="a service manager keeps the mounts, too")
        if name in ("run", "supervise"):
            verb.add_argument("--ready-fd", type=int, help="say there when ready, or why not")
            verb.add_argument("--workers", type=int, help="processes that serve files; one per CPU by default")
            verb.add_argument("--json", action="store_true", help="without --ready-fd, say in JSON why not")
        if name == "foreground":
            verb.add_argument("--json", action="store_true", help="say in JSON where it is mounted, or why not")
            verb.add_argument("workspace")
            verb.add_argument("path")
        if name == "fsck":
            verb.add_argument("--deep", action="store_true", help="re-hash every block")
        if name == "connections":
            verb.add_argument("--fix", action="store_true", help="abort and detach those that nobody serves")
    return parser.parse_args(words)


def keep(store: str, *, background: bool, ready: Ready, as_json: bool, workers: int | None) -> None:
    """Keep a supervisor running until it is stopped; ends the process."""
    if background:
        from cowfs_daemon.surroundings import leave_cgroup, refuse_sandbox

        try:
            refuse_sandbox()
        except CowfsError as error:
            ready.tell(_shape(error))
            sys.exit(error.exit_code)
        detach(store)
        leave_cgroup()
    from cowfs_daemon import keeper

    def work() -> int:
        return keeper.keep(keeper.Options(store, as_json, workers), ready, background=background)

    sys.exit(_guarded(work, ready, as_json))


def resume(memory: int, as_json: bool) -> int:
    """Go on as the keeper that this process was; the exit code."""
    from cowfs_daemon import keeper

    return _guarded(lambda: keeper.resume(memory), Ready(None), as_json)


def supervise(options: argparse.Namespace) -> int:
    """Serve a store until stopped; the exit code."""
    logs.set_up("supervisor", options.store)
    ready = Ready(options.ready_fd)

    def serve() -> int:
        from cowfs_daemon.compose import serve_store
        from cowfs_daemon.supervised import Supervised

        supervised = Supervised(options.keeper_fd, options.keeper_protocol, options.fd_stored)
        return serve_store(options.store, lambda: ready.tell({"pid": os.getpid()}), supervised, options.workers)

    return _guarded(serve, ready, options.json)


def foreground(options: argparse.Namespace) -> int:
    """Serve one workspace through pyfuse3 until a signal ends it; the exit code."""

    def serve() -> int:
        try:
            from cowfs_daemon.foreground.serve import serve
        except ImportError as error:
            hint = "apt-get install fuse3 libfuse3-dev pkg-config gcc; pip install 'cowfs[daemon,pyfuse3]'"
            raise Invalid(f"pyfuse3 is not installed here: {error}", hint=hint) from error
        path = os.path.abspath(options.path)
        mounted = {"ref": options.workspace, "path": path, "read_only": False}
        return serve(
            options.store, options.workspace, path,
            lambda: print(json.dumps(mounted) if options.json else path, flush=True),
        )  # fmt: skip

    return _guarded(serve, Ready(None), options.json)


def version() -> dict[str, Any]:
    """What a keeper and a supervisor of another version ask before they give way to this one; it proves that both
    parts can be started."""
    import cowfs
    from cowfs_daemon import compose, packets

    return {"version": cowfs.__version__, "keepers": [packets.PROTOCOL], "parts": [compose.__name__]}


def _guarded(work: Callable[[], int], ready: Ready, as_json: bool) -> int:
    """Call ``work``; a failure goes to the starter, or to standard error. The exit code."""
    try:
        return work()
    except CowfsError as error:
        failure = error
    except Exception as error:
        logging.exception("the daemon failed")
        failure = CowfsError(f"{type(error).__name__}: {error}", hint="the daemon's log has more")
    if ready.fd is None:
        line = f"cowfs: {failure.message}" + (f" ({failure.hint})" if failure.hint else "")
        print(json.dumps(_shape(failure)) if as_json else line, file=sys.stderr)
    ready.tell(_shape(failure))
    return failure.exit_code


def tool(options: argparse.Namespace) -> dict[str, Any]:
    """The result of ``init``, ``fsck``, ``repair``, ``connections`` or ``version``."""
    if options.verb == "version":
        return version()
    if options.verb == "connections":
        from cowfs_daemon import connections

        return connections.report(options.store, options.fix)
    from cowfs_daemon import offline

    store: str = options.store
    if options.verb == "repair":
        return offline.repair_store(store)
    return offline.create_store(store) if options.verb == "init" else offline.check_store(store, options.deep)


def _shape(error: CowfsError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def main() -> int:
    """Run the command line; the exit code."""
    options = parse(sys.argv[1:])
    if options.verb in ("run", "supervise"):
        raise_limits()
    if options.verb == "run":
        if options.resume is not None:
            return resume(options.resume, options.json)
        ready = Ready(options.ready_fd)
        keep(
            options.store, background=options.detach, ready=ready, as_json=options.json, workers=options.workers
        )  # fmt: skip
    if options.verb == "supervise":
        return supervise(options)
    if options.verb == "foreground":
        return foreground(options)
    try:
        result = tool(options)
        code = 0
    except CowfsError as error:
        result, code = _shape(error), error.exit_code
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
