"""``python -m cowfs_daemon run|supervise|init|fsck|repair --store DIR``: what the CLI starts, so that it need not
import the engine.

``run`` is the keeper, which starts ``supervise``, which serves until stopped. ``init``, ``fsck`` and ``repair`` need no
daemon and print one JSON object.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from cowfs.errors import CowfsError
from cowfs_daemon import logs
from cowfs_daemon.start import Ready, detach, raise_limits


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="cowfs_daemon", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("run", "supervise", "init", "fsck", "repair"):
        verb = verbs.add_parser(name)
        verb.add_argument("--store", required=True)
        if name == "run":
            verb.add_argument("--detach", action="store_true", help="go to the background")
        if name == "supervise":
            verb.add_argument("--keeper-fd", type=int, help="the keeper's socket")
        if name in ("run", "supervise"):
            verb.add_argument("--ready-fd", type=int, help="say there when ready, or why not")
            verb.add_argument("--workers", type=int, help="processes that serve files; one per CPU by default")
            verb.add_argument("--json", action="store_true", help="without --ready-fd, say in JSON why not")
        if name == "fsck":
            verb.add_argument("--deep", action="store_true", help="re-hash every block")
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
    from cowfs_daemon.keeper import keep as keep_store

    def work() -> int:
        return keep_store(store, ready, background=background, as_json=as_json, workers=workers)

    sys.exit(_guarded(work, ready, as_json))


def supervise(store: str, keeper: int | None, ready: Ready, as_json: bool, workers: int | None) -> int:
    """Serve ``store`` until stopped; the exit code. ``keeper``: the descriptor of the keeper's socket."""
    logs.set_up("supervisor", store)

    def serve() -> int:
        from cowfs_daemon.compose import serve_store

        serve_store(store, lambda: ready.tell({"pid": os.getpid()}), keeper, workers)
        return 0

    return _guarded(serve, ready, as_json)


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


def tool(verb: str, store: str, *, deep: bool) -> dict[str, Any]:
    """The result of ``init``, ``fsck`` or ``repair``."""
    from cowfs_daemon import offline

    if verb == "repair":
        return offline.repair_store(store)
    return offline.create_store(store) if verb == "init" else offline.check_store(store, deep)


def _shape(error: CowfsError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def main() -> int:
    """Run the command line; the exit code."""
    options = parse(sys.argv[1:])
    if options.verb in ("run", "supervise"):
        raise_limits()
    if options.verb == "run":
        ready = Ready(options.ready_fd)
        keep(
            options.store, background=options.detach, ready=ready, as_json=options.json, workers=options.workers
        )  # fmt: skip
    if options.verb == "supervise":
        return supervise(options.store, options.keeper_fd, Ready(options.ready_fd), options.json, options.workers)
    try:
        result = tool(options.verb, options.store, deep=getattr(options, "deep", False))
        code = 0
    except CowfsError as error:
        result, code = _shape(error), error.exit_code
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
