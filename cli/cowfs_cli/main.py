"""The entry point: finds the command's module, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 internal; 2 invalid; 3 not found; 4 conflict; 5 busy; 6 corrupt; 7 no space; 130 interrupted.
They are class data of cowfs.errors. Only the module of the command that runs is imported: start-up time is most of
what a command costs.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import click

from cowfs.errors import CowfsError, Invalid

COMMANDS = (
    "init",
    "import",
    "create",
    "templates",
    "list",
    "path",
    "mount",
    "umount",
    "checkpoint",
    "restore",
    "run",
    "bundle",
    "disk",
    "docker-plugin",
    "snapshotter",
    "guest",
    "fork",
    "log",
    "tree",
    "diff",
    "show",
    "clone",
    "export",
    "set",
    "rename",
    "rm",
    "stat",
    "gc",
    "scrub",
    "fsck",
    "doctor",
    "daemon",
)
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are the modules ``cowfs_cli.commands.NAME_``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"cowfs_cli.commands.{cmd_name.replace('-', '_')}_").command
        return found

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        """Run the command line and exit."""
        options.update(standalone_mode=False, prog_name="cowfs")
        sys.exit(_guarded(lambda: super(LazyGroup, self).main(*arguments, **options)))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command takes --store DIR (or COWFS_STORE), --json and --debug; `cowfs COMMAND --help` has examples.",
)
@click.version_option(package_name="cowfs", prog_name="cowfs")
def main() -> None:
    """Root filesystems for sandboxes that fork, checkpoint and restore instantly.

    \b
    A first session:
      cowfs init
      cowfs import /some/rootfs ws-1          a workspace with the content of a directory
      p=$(cowfs path ws-1)                    mounted there, usable at once
      cowfs checkpoint ws-1 -m "clean" --label good
      rm -rf $p/usr; cowfs restore ws-1 @good
      cowfs fork ws-1@good try --count 8      try-1 ... try-8, in no time and no space

    \b
    References: WS (its live state), WS@latest, WS@-2 (second newest), WS@LABEL,
    a snapshot id or its unique prefix.
    """


def _guarded(run: Callable[[], Any]) -> int:
    """Call ``run``, report what it raises; the exit code."""
    try:
        ended = run()
        sys.stdout.flush()
        code = ended if isinstance(ended, int) else 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as usage:
        click.echo(usage.format_message(), err=True)
        code = Invalid.exit_code
    except click.ClickException as usage:
        code = _report(_from_usage(usage))
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away: as quiet as other commands are, and nothing left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except CowfsError as error:
        code = _report(error)
    except Exception as error:
        code = _report(CowfsError(f"{type(error).__name__}: {error}", hint="this is a defect; --debug shows where"))
    return code


def _from_usage(usage: click.ClickException) -> CowfsError:
    context = usage.ctx if isinstance(usage, click.UsageError) else None
    return Invalid(usage.format_message(), hint=f"{context.command_path} --help" if context is not None else "")


def _report(error: CowfsError) -> int:
    """Print the error that is being handled; its exit code."""
    # The options may not have been parsed when the error came: look at the words themselves.
    words = sys.argv[1:]
    if "--" in words:  # what comes then is another program's
        words = words[: words.index("--")]
    if "--debug" in words:
        import traceback

        traceback.print_exc()
    if "--json" in words:
        shape = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        click.echo(json.dumps(shape), err=True)
    else:
        from cowfs_cli.common import clean

        message, hint = (clean(" ".join(text.splitlines())) for text in (error.message, error.hint))
        click.echo(f"cowfs: {message}" + (f" ({hint})" if hint else ""), err=True)
    return error.exit_code
