"""``python -m cowfs_daemon run|init|fsck --store DIR``: what the CLI starts, so that it need not import the engine.

``run`` serves until stopped. ``init`` and ``fsck`` need no daemon and print one JSON object.
"""

import argparse
import json
import logging
import os
import sys
from typing import Any

from cowfs.errors import CowfsError
from cowfs_daemon.start import Ready, detach


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="cowfs_daemon", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("run", "init", "fsck"):
        verb = verbs.add_parser(name)
        verb.add_argument("--store", required=True)
        if name == "run":
            verb.add_argument("--detach", action="store_true", help="go to the background")
            verb.add_argument("--ready-fd", type=int, help="say there when ready, or why not")
        if name == "fsck":
            verb.add_argument("--deep", action="store_true", help="re-hash every block")
    return parser.parse_args(words)


def run(store: str, *, background: bool, ready: Ready) -> int:
    """Serve ``store`` until stopped; the exit code."""
    if background:
        detach(store)
    # Imported after the fork: a starter waits for nothing but this process, and threads begin only here.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from cowfs_daemon.compose import serve_store

        serve_store(store, lambda: ready.tell({"pid": os.getpid()}))
    except CowfsError as error:
        ready.tell(_shape(error))
        logging.error("%s (%s)", error.message, error.hint)
        return error.exit_code
    except Exception as error:
        ready.tell(_shape(CowfsError(f"{type(error).__name__}: {error}", hint="the daemon's log has more")))
        logging.exception("the daemon failed")
        return 1
    return 0


def tool(verb: str, store: str, *, deep: bool) -> dict[str, Any]:
    """The result of ``init`` or ``fsck``."""
    from cowfs_daemon import offline

    return offline.create_store(store) if verb == "init" else offline.check_store(store, deep)


def _shape(error: CowfsError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def main() -> int:
    """Run the command line; the exit code."""
    options = parse(sys.argv[1:])
    if options.verb == "run":
        return run(options.store, background=options.detach, ready=Ready(options.ready_fd))
    try:
        result = tool(options.verb, options.store, deep=getattr(options, "deep", False))
        code = 0
    except CowfsError as error:
        result, code = _shape(error), error.exit_code
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
