"""What the options of ``cowfs run`` and ``cowfs bundle`` mean."""

from cowfs.client.store import Store
from cowfs.errors import Invalid, NotFound
from cowfs_cli.sandbox import places


def pair(text: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE. Raises Invalid."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Invalid(f"--env {text!r} is not NAME=VALUE")
    return name, value


def kept(store: Store, owner: str, text: str) -> tuple[str, str]:
    """(path inside, directory outside) of PATH[=WS2]; without WS2, one of its own is made. Raises NotFound, Invalid."""
    path, equals, name = text.partition("=")
    path = places.inside(path)
    name = name if equals else f"{owner}-keep{path.replace('/', '-')}"
    try:
        return path, store.workspace(name).path
    except NotFound:
        if equals:
            raise
        return path, store.create(name).path
