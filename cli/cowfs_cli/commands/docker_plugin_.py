"""``cowfs docker-plugin``."""

import click

from cowfs.client import connect
from cowfs_cli.adapter.foreground import Ending
from cowfs_cli.common import Session, options


@click.command("docker-plugin")
@click.option("--socket", "path", default="/run/docker/plugins/cowfs.sock", metavar="PATH", show_default=True,
              help="Where Docker finds it: the file's name is the driver's.")  # fmt: skip
@options
def command(session: Session, path: str) -> None:
    """Serve the workspaces of the store as volumes of Docker, in the foreground, until interrupted.

    Docker finds the plugin by its socket; the driver's name is cowfs. Any workspace can be mounted into containers, a
    new volume may begin as a fork, and `docker volume rm` removes only what `docker volume create` made.

    \b
    Examples:
      cowfs docker-plugin &
      docker volume create -d cowfs scratch
      docker volume create -d cowfs -o from=ws-1@good ws-2
      docker run --rm --volume-driver cowfs -v ws-2:/work debian:12 make -C /work test
    """
    from cowfs_cli.docker import serve
    from cowfs_cli.docker.volumes import Volumes

    with connect(session.path()) as store:
        ending = Ending()
        with serve.serving(Volumes(store), path):
            session.out({"socket": path, "store": store.path}, lambda: [f"serving Docker volumes at {path}"])
            ending.wait()
