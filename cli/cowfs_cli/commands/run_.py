"""``cowfs run``."""

import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from cowfs.client import Store, connect
from cowfs.errors import Invalid
from cowfs_cli.agent import folder, serve
from cowfs_cli.common import Session, bytes_of, complete_ref, options
from cowfs_cli.sandbox import bubblewrap, choices, places
from cowfs_cli.sandbox.cgroup import Group, Limits
from cowfs_cli.transient import TTL_SECONDS, ending, transient

MESSAGE_MAX = 200


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.option("--ephemeral", is_flag=True, help="Run in a fork of WORKSPACE (any reference), and remove it.")
@click.option("--checkpoint-each", is_flag=True, help="Make a checkpoint afterwards, with the command as its message.")
@click.option("--restore-on-failure", is_flag=True, help="Restore the state before when the exit code is not 0.")
@click.option("--agent", is_flag=True, help="Let the program ask for checkpoints: see /run/cowfs/llms.txt inside.")
@click.option("--allow", multiple=True, type=click.Choice(("restore", "fork")), help="With --agent, also this.")
@click.option("--memory", metavar="SIZE", callback=bytes_of, help="Memory at most, swap included.")
@click.option("--cpus", type=click.FloatRange(0.01), metavar="N", help="Processors at most: 1.5 is one and a half.")
@click.option("--pids", type=click.IntRange(1), metavar="N", help="Processes and threads at most.")
@click.option("--freeze", is_flag=True, help="With --agent: stop everything inside while it restores.")
@click.option("--net", type=click.Choice(("none", "host")), default="none", help="The network. Default: none.")
@click.option("--keep", multiple=True, metavar="PATH[=WS2]", help="Bind another workspace over PATH.")
@click.option("--tmpfs", multiple=True, metavar="PATH", help="Memory over PATH.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable.")
@click.option("--workdir", default="/", metavar="PATH", help="Where the program begins. Default: /.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@options
def command(
    session: Session, workspace: str, ephemeral: bool, checkpoint_each: bool, restore_on_failure: bool, agent: bool,
    allow: tuple[str, ...], memory: int | None, cpus: float | None, pids: int | None, freeze: bool, net: str,
    keep: tuple[str, ...], tmpfs: tuple[str, ...], env: tuple[str, ...], workdir: str, command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND with WORKSPACE as its root directory, in a sandbox of its own (bubblewrap); its exit code.

    /proc and /dev are fresh, /run and /dev/shm are memory; /tmp is in the workspace, unless --tmpfs /tmp. There is no
    network but with --net host. Root inside can change every file of the workspace, and nothing of the machine.
    What a workspace bound by --keep holds stays outside of checkpoints and survives restores; without =WS2 it is
    one of this workspace's own, made at its first use.

    With --json the program's output goes to standard error.

    \b
    Examples:
      cowfs run ws-1 -- sh -c 'apt-get update'
      cowfs run ws-1 --checkpoint-each --restore-on-failure -- make test
      cowfs run ws-1 --agent --allow restore -- my-agent
      cowfs run ws-1@good --ephemeral --net host --keep /root/.cache -- pip install requests
    """
    if (allow or freeze) and not agent:
        raise Invalid("--allow and --freeze are about what --agent asks for", hint="add --agent")
    program = bubblewrap.find()
    with ending(), ExitStack() as stack:
        store = stack.enter_context(connect(session.path()))
        name = owner = workspace
        if ephemeral:
            owner = _owner(store, workspace)
            name = f"{owner[:80]}-run-{secrets.token_hex(4)}"
            fork = stack.enter_context(transient(store, name))
            store.fork(workspace, name)
            fork.set({"ttl": TTL_SECONDS})
        box = bubblewrap.Sandbox(store.workspace(name).path, name[:64], host_network=net == "host")
        box.environment = dict(choices.pair(each) for each in env)
        box.memory = [places.inside(path) for path in tmpfs]
        box.kept = [choices.kept(store, owner, each) for each in keep]
        box.workdir = workdir
        limits = Limits(memory, cpus, pids)
        group = stack.enter_context(closing(Group(limits, freezer=freeze))) if limits.any() or freeze else None
        granted = stack.enter_context(ExitStack())
        if agent:
            _grant(granted, store, name, box, serve.Grant(frozenset(allow), around=_frozen(group if freeze else None)))
        places.make(box.root, box.mount_points())
        done = _Run(store, name, list(command), granted.close).run(
            partial(_entering, group, box, program), checkpoint_each, restore_on_failure, session.json
        )
    session.out({"workspace": workspace, **vars(done)}, list)
    return done.exit_code


def _owner(store: Store, ref: str) -> str:
    """The name of the workspace that a reference is of. Raises NotFound, Invalid."""
    return store.snapshot(ref).workspace if ref.startswith(("snap-", "template:")) else ref.partition("@")[0]


def _entering(
    group: Group | None, box: bubblewrap.Sandbox, program: str, command: list[str], terminal: bool
) -> list[str]:
    words = box.words(program, command, terminal)
    return words if group is None else group.words(words)


def _frozen(group: Group | None) -> Callable[[], AbstractContextManager[None]]:
    return nullcontext if group is None else group.frozen


def _grant(stack: ExitStack, store: Store, name: str, box: bubblewrap.Sandbox, grant: serve.Grant) -> None:
    """Give the sandbox a socket through which it may ask for the verbs of its own workspace, until the run ends."""
    # What is shown may be entered by whoever the program becomes inside; on the host, nobody gets through its parent.
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cowfs-agent-")), "shown")
    folder.make(directory)
    stack.enter_context(serve.serving(store, name, str(directory / folder.SOCKET), grant))
    box.shown.append((folder.INSIDE, str(directory)))
    box.environment = folder.variables() | box.environment


@dataclass
class Done:
    """``exit_code``: 128 and more: by that signal. ``snapshot``: what was made afterwards; ``restored``: what to."""

    exit_code: int
    snapshot: str | None = None
    restored: str | None = None


class _Run:
    """``ended()`` is called when the program has ended: nothing that it asked for may take effect later."""

    def __init__(self, store: Store, name: str, command: list[str], ended: Callable[[], None]) -> None:
        self._workspace = store.workspace(name)
        self._command = command
        self._ended = ended
        self._message = shlex.join(command)[:MESSAGE_MAX]

    def run(self, words: Callable[[list[str], bool], list[str]], each: bool, restore: bool, quiet: bool) -> Done:
        """Run it, and what is to come before and afterwards."""
        before = self._workspace.checkpoint(f"before {self._message}").snapshot.id if restore else None
        done = Done(_wait(words(self._command, os.isatty(0)), quiet))
        self._ended()
        if done.exit_code and before is not None:
            self._workspace.restore(before)
            done.restored = before
            click.echo(f"cowfs: exit code {done.exit_code}: restored the state before", err=True)
        elif each:
            done.snapshot = self._workspace.checkpoint(self._message).snapshot.id
        return done


def _wait(words: list[str], quiet: bool) -> int:
    """Run to the end; SIGTERM and SIGHUP are passed on, Ctrl-C reaches the program by itself."""
    program = subprocess.Popen(words, stdout=sys.stderr.fileno() if quiet else None)
    handlers: dict[signal.Signals, Any] = {}

    def passed_on(number: int, _: object) -> None:
        program.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        handlers[number] = signal.signal(number, passed_on)
    handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = program.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
