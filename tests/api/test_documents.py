"""docs/cli.md and docs/api.md name every command, route, error, status and exit code that exists, and no other."""

import http.client
import json
import re
from pathlib import Path

from cowfs.client.place import connect_socket
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs_cli.main import COMMANDS
from tests.support.servedstore import ServedStore

DOCS = Path(__file__).parents[2] / "docs"
ERRORS = (CowfsError, Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)


def openapi(served: ServedStore) -> dict[str, dict[str, object]]:
    """The served schema, fetched by another HTTP client than ours."""
    connection = http.client.HTTPConnection("cowfs")
    connection.sock = connect_socket(str(served.path))
    connection.request("GET", "/v1/openapi.json")
    schema: dict[str, dict[str, object]] = json.load(connection.getresponse())
    connection.close()
    return schema


def test_every_route_is_documented(served: ServedStore) -> None:
    paths = openapi(served)["paths"]
    served_routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}  # type: ignore[attr-defined]
    documented = set(
        re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) [^`]+)`", (DOCS / "api.md").read_text(), re.MULTILINE)
    )
    assert documented == served_routes


def test_every_command_is_documented() -> None:
    documented = set(re.findall(r"^\| `cowfs ([a-z-]+)", (DOCS / "cli.md").read_text(), re.MULTILINE))
    assert documented == set(COMMANDS)


def test_every_error_is_documented_with_its_codes() -> None:
    cli, api = (DOCS / "cli.md").read_text(), (DOCS / "api.md").read_text()
    for error in ERRORS:
        assert f"| {error.exit_code} | `{error.code}` |" in cli
        (line,) = re.findall(rf"^\| {error.http_status} \|.*$", api, re.MULTILINE)
        assert f"`{error.code}`" in line
