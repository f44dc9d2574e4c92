"""``cowfs snapshotter``."""

import click

from cowfs.client import connect
from cowfs.errors import Invalid
from cowfs_cli.adapter.foreground import Ending
from cowfs_cli.common import Session, options


@click.command()
@click.option("--socket", "path", default="/run/cowfs-snapshotter/cowfs.sock", metavar="PATH", show_default=True,
              help="What containerd's configuration names.")  # fmt: skip
@options
def command(session: Session, path: str) -> None:
    """Serve containerd as a proxy snapshotter, in the foreground, until interrupted.

    Layers of images and containers' root filesystems become workspaces of the store. It needs grpcio and protobuf:
    pip install 'cowfs[containerd]'. In containerd's configuration:

    \b
      [proxy_plugins.cowfs]
        type = "snapshot"
        address = "/run/cowfs-snapshotter/cowfs.sock"

    \b
    Examples:
      cowfs snapshotter &
      ctr images pull --snapshotter cowfs docker.io/library/debian:12
      ctr run --rm --snapshotter cowfs docker.io/library/debian:12 c1 echo hello
    """
    try:
        from cowfs_cli.containerd import serve
        from cowfs_cli.containerd.snapshots import Snapshots
    except ImportError as error:
        raise Invalid(f"the snapshotter needs {error.name}", hint="pip install 'cowfs[containerd]'") from None

    with connect(session.path()) as store:
        ending = Ending()
        with serve.serving(Snapshots(store), path):
            session.out({"socket": path, "store": store.path}, lambda: [f"serving containerd's snapshots at {path}"])
            ending.wait()
