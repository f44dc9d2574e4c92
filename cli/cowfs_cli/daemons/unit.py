"""``cowfs daemon unit``."""

import os
import sys

import click

from cowfs_cli.common import Session, options

UNIT = """\
# Made by: cowfs daemon unit. Install it as /etc/systemd/system/{name}.service, then:
#   systemctl daemon-reload && systemctl enable --now {name}
[Unit]
Description=cowfs: workspaces of {described}
After=local-fs.target
RequiresMountsFor={path}

[Service]
# The keeper says READY=1 when the API answers, and stores the mounts' descriptors: programs outlive a restart.
Type=notify
NotifyAccess=all
ExecStart={command} daemon run --store {path}
FileDescriptorStoreMax={descriptors}
FileDescriptorStorePreserve=yes
# SIGTERM to the keeper alone: it ends the others, in order. What does not end by then is killed.
KillMode=mixed
TimeoutStartSec=300
TimeoutStopSec=120
Restart=on-failure
RestartSec=1
# Never in the memory cgroup of a sandbox, and among the last to be killed when memory runs out.
OOMScoreAdjust=-900
OOMPolicy=continue
Delegate=yes
TasksMax=infinity
LimitNOFILE={files}
LimitMEMLOCK=infinity
UMask=0077
# Mounts are made for everybody on the machine, so the service shares its mount namespace: no PrivateMounts,
# PrivateTmp, ProtectSystem or ProtectHome, which would each give it another one.
PrivateMounts=no

[Install]
WantedBy=multi-user.target
"""
DESCRIPTORS = 8192
FILES = 1_048_576


@click.command("unit")
@click.option("--name", default="cowfs", show_default=True, help="What the service is to be called.")
@options
def command(session: Session, name: str) -> None:
    """Print a systemd unit that serves this store.

    \b
    Example:
      cowfs daemon unit --store /var/lib/cowfs > /etc/systemd/system/cowfs.service
    """
    store = session.path()
    program = os.path.abspath(sys.argv[0])
    words = [program] if os.access(program, os.X_OK) else [sys.executable, "-P", "-m", "cowfs_cli"]
    text = UNIT.format(
        name=name,
        path=_quoted(store),
        described=store.replace("%", "%%"),
        command=" ".join(map(_quoted, words)),
        descriptors=DESCRIPTORS,
        files=FILES,
    )
    session.out({"name": f"{name}.service", "unit": text}, lambda: [text.rstrip("\n")], exact=True)


def _quoted(word: str) -> str:
    """As systemd reads a word: quoted where it has to be, ``%`` and ``$`` doubled."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(char.isspace() or char in "\"'\\" for char in word) else word
