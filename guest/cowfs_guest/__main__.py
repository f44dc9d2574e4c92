"""``cowfs-guest``: the verbs on the command line, inside of a sandbox or a virtual machine, and the latter's server."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import cowfs_guest
from cowfs_guest import Refused

EXIT_CODES = {"invalid": 2, "not_found": 3, "conflict": 4, "busy": 5, "corrupt": 6, "no_space": 7}
"""As those of ``cowfs`` on the host."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="cowfs-guest", description="Keep and restore the files of this sandbox.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = verbs.add_parser("checkpoint", help="keep every file as it is now; prints the snapshot's id")
    made.add_argument("-m", "--message", default="")
    made.add_argument("--label", help="a name for it, as in: restore @LABEL")
    back = verbs.add_parser("restore", help="make every file what it was; prints what takes that back")
    back.add_argument("ref", nargs="?", default="@latest", help="@LABEL, @latest, @-2 or an id")
    verbs.add_parser("log", help="the snapshots, newest first")
    changed = verbs.add_parser("diff", help="what differs: A to B, or A to now")
    changed.add_argument("a", nargs="?", default="@latest")
    changed.add_argument("b", nargs="?", default="")
    new = verbs.add_parser("fork", help="a new workspace; prints its name")
    new.add_argument("name")
    new.add_argument("ref", nargs="?", default="")
    verbs.add_parser("ping", help="what is allowed here")
    for each in verbs.choices.values():
        each.add_argument("--json", action="store_true", help="print JSON")
    served = verbs.add_parser("serve", help="inside of a virtual machine: do what its host asks")
    served.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    way = served.add_mutually_exclusive_group()
    way.add_argument("--port", default="/dev/virtio-ports/com.cowfs.guest", help="a virtio-serial port, or a terminal")
    way.add_argument("--vsock", type=int, metavar="PORT", help="listen for the host's connections by vsock")
    way.add_argument("--fd", type=int, metavar="N", help="a stream that is open already")
    served.add_argument("--root", dest="roots", nargs="+", metavar="MOUNTPOINT", help="what is frozen. Default: /")
    served.add_argument("--agent-socket", default=cowfs_guest.SOCKET, help="for programs inside; '': none")
    return parser


def main() -> int:
    """Run one verb; its exit code."""
    options = vars(arguments().parse_args())
    verb, as_json = options.pop("verb"), options.pop("json")
    if verb == "serve":
        from cowfs_guest import serve  # much that a verb does not need

        return serve.main(**options)
    try:
        value = cowfs_guest.call(verb, **options)
    except Refused as error:
        told = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        print(json.dumps(told) if as_json else f"cowfs-guest: {error}", file=sys.stderr)
        return EXIT_CODES.get(error.code, 1)
    except OSError as error:
        print(f"cowfs-guest: the host does not answer: {error} (is this a sandbox that may ask?)", file=sys.stderr)
        return 1
    print(json.dumps(value) if as_json else "\n".join(map(_clean, _lines(verb, value))))
    return 0


def _clean(line: str) -> str:
    """As ``cowfs`` prints it: names and messages do not drive the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _lines(verb: str, value: Any) -> list[str]:
    if verb == "checkpoint":
        return [value["snapshot"]]
    if verb == "restore":
        undo = f"; back again: cowfs-guest restore {value['undo']}" if value["undo"] else ""
        return [f"{value['snapshot']} ({value['changed']} files changed{undo})"]
    if verb == "log":
        return [" ".join([each["id"], *(f"@{label}" for label in each["labels"]), each["message"]]) for each in value]
    if verb == "diff":
        return [f"{each['change']} {each['path']}" for each in value["changes"]]
    if verb == "fork":
        return [value["workspace"]]
    return [f"workspace {value['workspace']}: {', '.join(value['verbs'])}"]


if __name__ == "__main__":
    sys.exit(main())
