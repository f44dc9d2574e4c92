"""``cowfs guest``: a virtual machine's own server, asked from its host."""

import secrets
import signal
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import BinaryIO

import click

from cowfs.client import connect
from cowfs.errors import Invalid
from cowfs_cli.agent.protocol import CHOICES
from cowfs_cli.common import Session, complete_ref, options, size
from cowfs_cli.guests.channel import GuestChannel
from cowfs_cli.guests.serving import Serving
from cowfs_cli.sandbox.choices import pair

SEED_BYTES = 64
STDIN_BYTES = 48 * 1024


@click.group()
@click.argument("socket")
@click.option("--vsock", type=click.IntRange(1), metavar="PORT", help="SOCKET is Firecracker's; the guest's port.")
@click.option("--wait", type=click.FloatRange(0.1), default=10.0, metavar="SECONDS", help="For an answer. Default: 10.")
@click.pass_context
def command(context: click.Context, socket: str, vsock: int | None, wait: float) -> None:
    """Ask the server inside of a virtual machine (cowfs-guest serve) to do something, or answer what it asks.

    SOCKET is the Unix socket of its virtio-serial port (QEMU: -chardev socket), or with --vsock of its vsock device.

    \b
    Examples:
      cowfs guest vm-1.sock ping
      cowfs guest vm-1.sock exec -- systemctl restart postgresql
      cowfs guest vm-1.sock freeze-check
      cowfs guest v.sock --vsock 7000 serve ws-1 --allow restore,fork --restore-hook ./vm.sh
    """
    context.meta["channel"] = partial(GuestChannel, socket, vsock_port=vsock, seconds=wait)


def _channel() -> GuestChannel:
    made: GuestChannel = click.get_current_context().meta["channel"]()
    return made


@command.command()
@options
def ping(session: Session) -> None:
    """Who answers inside."""
    with _channel() as guest:
        found = guest.ping()
    session.out(asdict(found), lambda: [f"Python {found.python}; freezes {', '.join(found.roots)}"])


@command.command()
@options
def sync(session: Session) -> None:
    """Write everything dirty inside to its disks."""
    with _channel() as guest:
        guest.sync()
    session.out({"synced": True}, list)


@command.command()
@options
def trim(session: Session) -> None:
    """Tell its disks what is free inside, so that the host gets the space back."""
    with _channel() as guest:
        count = guest.trim()
    session.out({"trimmed_bytes": count}, lambda: [size(count)])


@command.command()
@options
def freeze_check(session: Session) -> None:
    """Freeze its filesystems and thaw them at once: whether that works, and how long it takes."""
    with _channel() as guest:
        before = time.monotonic()
        guest.freeze()
        after = time.monotonic()
        frozen = guest.thaw()
    done = {"freeze_ms": round((after - before) * 1000, 3), "frozen_ms": round(frozen * 1000, 3)}
    session.out(done, lambda: [f"frozen after {done['freeze_ms']} ms, for {done['frozen_ms']} ms"])


@command.command()
@options
def thaw(session: Session) -> None:
    """Let programs inside write again, if something has left its filesystems frozen."""
    with _channel() as guest:
        guest.thaw()
    session.out({"thawed": True}, list)


@command.command()
@options
def clock(session: Session) -> None:
    """Set its clock to this machine's: after it was restored, or stood still."""
    with _channel() as guest:
        step = guest.clock()
    session.out({"step_ns": step}, lambda: [f"{step / 1e9:+.3f} s"])


@command.command()
@click.option("--seed", is_flag=True, help="New secret bytes for its random numbers.")
@click.option("--machine-id", is_flag=True, help="A new /etc/machine-id.")
@click.option("--hostname", default="", metavar="NAME", help="Another host name.")
@click.option("--ssh-host-keys", is_flag=True, help="Remove its SSH host keys.")
@options
def hygiene(session: Session, seed: bool, machine_id: bool, hostname: str, ssh_host_keys: bool) -> None:
    """Make it another machine than the one whose copy it is; each only when asked."""
    if not (seed or machine_id or hostname or ssh_host_keys):
        raise Invalid("nothing is asked for", hint="--seed --machine-id --hostname NAME --ssh-host-keys")
    given = secrets.token_bytes(SEED_BYTES) if seed else b""
    with _channel() as guest:
        done = guest.hygiene(seed=given, machine_id=machine_id, hostname=hostname, ssh_host_keys=ssh_host_keys)
    session.out(asdict(done), lambda: [f"{name}: {value}" for name, value in asdict(done).items() if value])


@command.command("exec")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable.")
@click.option("--workdir", default="/", metavar="PATH", help="Where the program begins. Default: /.")
@click.option("--timeout", type=click.FloatRange(0.1, 86_400), default=600.0, help="Seconds at most. Default: 600.")
@click.option("--stdin", is_flag=True, help="Give it what comes on standard input, 48 KiB of text at most.")
@click.argument("words", metavar="-- COMMAND", nargs=-1, required=True, type=click.UNPROCESSED)
@options
def exec_(
    session: Session, env: tuple[str, ...], workdir: str, timeout: float, stdin: bool, words: tuple[str, ...]
) -> int:
    """Run COMMAND inside, as root; its exit code. With --json its output goes to standard error."""
    given = _input() if stdin else ""
    out = sys.stderr.buffer if session.json else sys.stdout.buffer
    with _channel() as guest:
        done = guest.exec(
            words, env=dict(map(pair, env)), cwd=workdir, stdin=given, timeout_seconds=timeout,
            on_stdout=partial(_write, out), on_stderr=partial(_write, sys.stderr.buffer),
        )  # fmt: skip
    session.out(asdict(done), list)
    return done.exit_code


def _input() -> str:
    data = sys.stdin.buffer.read(STDIN_BYTES + 1)
    try:
        if len(data) <= STDIN_BYTES:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise Invalid(f"standard input is more than {STDIN_BYTES} bytes, or no text", hint="Put it into a file inside.")


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def _end(_: int, __: object) -> None:
    raise SystemExit(0)


@command.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.option("--allow", multiple=True, metavar="VERB,…", help="Also restore, fork.")
@click.option("--restore-hook", default="", metavar="CMD", help="`CMD stop` and `CMD start` are run around a restore.")
@options
def serve(session: Session, workspace: str, allow: tuple[str, ...], restore_hook: str) -> None:
    """Answer what programs inside ask with cowfs-guest, about WORKSPACE, which holds its disk; until interrupted.

    Its filesystems are frozen for the moment of each checkpoint and fork. A restore needs --restore-hook: the command
    is run with stop, then the workspace is restored, then it is run with start; COWFS_WORKSPACE is its name.
    """
    allowed = frozenset(verb for each in allow for verb in each.split(",") if verb)
    if allowed - set(CHOICES):
        raise Invalid(f"--allow {','.join(sorted(allowed - set(CHOICES)))}", hint=f"There are: {', '.join(CHOICES)}")
    channel = click.get_current_context().meta["channel"]
    signal.signal(signal.SIGTERM, _end)
    with connect(session.path()) as store:
        serving = Serving(store, workspace, lambda answer: channel(answer=answer), allowed, restore_hook)
        serving.run(lambda: session.out({"serving": workspace}, lambda: [f"serving {workspace}"]))
