"""``cowfs daemon``: run, start, stop, restart, upgrade, status."""

import os
from collections.abc import Iterator
from typing import Any

import click

from cowfs_cli.common import Session, bytes_of, options, plural, size
from cowfs_cli.daemons import log, uninstall, unit


@click.group("daemon", no_args_is_help=True)
def command() -> None:
    """Run, start, stop or look at the process that serves a store.

    Any command that needs it starts it; these are for service managers and for looking.
    """


_MANAGER = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def _choose_format(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["COWFS_LOG_FORMAT"] = value  # for every process of the daemon


_log_format = click.option(
    "--log-format",
    type=click.Choice(("json", "text")),
    expose_value=False,
    callback=_choose_format,
    help="One JSON object a line (default in the background), or text (default in the foreground).",
)


def _choose_cache(context: click.Context, option: click.Parameter, value: str | None) -> None:
    chosen = bytes_of(context, option, value)
    if chosen is not None:
        os.environ["COWFS_CACHE_BYTES"] = str(chosen)


_cache = click.option(
    "--cache",
    metavar="SIZE",
    expose_value=False,
    callback=_choose_cache,
    help="Memory of each process that serves files for blocks, and as much for tree nodes. Default: 64M.",
)
_workers = click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that serve files. Default: one per CPU, when needed."
)


@command.command()
@_workers
@_cache
@_log_format
@options
def run(session: Session, workers: int | None) -> None:
    """Serve the store in the foreground until SIGTERM, logging to stderr (for systemd and the like).

    \b
    Example:
      ExecStart=cowfs daemon run --store /var/lib/cowfs
    """
    from cowfs.client.launch import daemon_command, daemon_environment

    words = daemon_command("run", "--store", session.path(), *(["--json"] if session.json else []))
    words += [] if workers is None else ["--workers", str(workers)]
    # What a service manager tells its service (sd_notify(3), sd_listen_fds(3)); the process stays the same.
    manager = {name: os.environ[name] for name in _MANAGER if name in os.environ}
    os.execve(words[0], words, daemon_environment() | manager)


@command.command()
@_workers
@_cache
@_log_format
@options
def start(session: Session, workers: int | None) -> None:
    """Start the daemon in the background, unless it runs, and wait until it answers."""
    from cowfs.client.launch import start_daemon

    pid = start_daemon(session.path(), workers)
    status = session.call("GET", "/v1/daemon")
    session.out(status, lambda: [f"{'started' if pid else 'already running'}, pid {status['supervisor']['pid']}"])


@command.command()
@click.option("--force", is_flag=True, help="Detach mounts that programs still use.")
@options
def stop(session: Session, force: bool) -> None:
    """Stop the daemon: unmount everything, keep everything. The next start mounts again what was mounted.

    While programs use a mount, it is busy (exit code 5), and they are named. No daemon is no error.
    """
    from cowfs.client.launch import wait_stopped
    from cowfs.client.place import is_store
    from cowfs.errors import NotFound

    wire = session.wire(start=False)
    try:
        status = wire.call("GET", "/v1/daemon")
    except NotFound:
        if not is_store(session.path()):
            raise
        session.out({"stopped": False}, lambda: ["no daemon is running"])
        return
    keeper = status["keeper"] or status["supervisor"]  # the keeper ends last
    wait_stopped(keeper["pid"], lambda: wire.call("POST", "/v1/daemon/stop", {"force": force}, again=False))
    session.out({"stopped": True}, lambda: ["stopped"])


@command.command()
@options
def restart(session: Session) -> None:
    """Replace all processes but the keeper by new ones of the installed code. Mounts stay; programs wait meanwhile."""
    _give_way(session, keeper=False)


@command.command()
@options
def upgrade(session: Session) -> None:
    """Replace every process by the installed code, the keeper too. Mounts stay; programs wait meanwhile.

    Nothing happens when the installed code cannot go on from what runs.

    \b
    Example:
      pip install --upgrade cowfs && cowfs daemon upgrade
    """
    _give_way(session, keeper=True)


def _give_way(session: Session, keeper: bool) -> None:
    from cowfs.client.launch import wait_stopped

    wire = session.wire(start=False)
    before = wire.call("GET", "/v1/daemon")["supervisor"]
    wait_stopped(before["pid"], lambda: wire.call("POST", "/v1/daemon/restart", {"keeper": keeper}))
    now = session.call("GET", "/v1/daemon")
    version = now["supervisor"]["version"]
    session.out(now, lambda: [f"version {version} serves, pid {now['supervisor']['pid']}; it was {before['version']}"])


@command.command()
@options
def status(session: Session) -> None:
    """Show the daemon's processes and queues; not found (exit code 3) when none runs.

    \b
    Example:
      cowfs daemon status --json | jq .supervisor.pid
    """
    found = session.wire(start=False).call("GET", "/v1/daemon")
    session.out(found, lambda: _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"supervisor  pid {found['supervisor']['pid']}, version {found['supervisor']['version']}"
    if found["keeper"] is not None:
        yield f"keeper      pid {found['keeper']['pid']}"
    for worker in found["workers"]:
        yield f"worker      pid {worker['pid']}, serving {', '.join(worker['workspaces']) or 'nothing'}"
    for settler in found["settlers"]:
        yield f"settler     pid {settler['pid']}"
    for name, length in found["queues"].items():
        yield f"queue       {name}: {length}"
    if "lag" in found:
        lag, cache = found["lag"], found["cache"]
        live = f"{plural(lag['records'], 'record')} and {size(lag['bytes'])} in memory and journals"
        yield f"lag         {lag['seconds']:.1f} s behind with settling; {live}"
        waits = f"{plural(lag['paced'], 'request')} had to wait, {lag['waiting']} wait now"
        yield f"pressure    {waits}, {lag['refused']} were refused"
        for name, each in cache.items():
            asked = each["hits"] + each["misses"]
            rate = f"{100 * each['hits'] / asked:.1f} % of {asked} found" if asked else "not asked yet"
            yield f"cache       {name}: {rate}, {size(each['bytes'])}"


for each in (log.command, unit.command, uninstall.command):
    command.add_command(each)
