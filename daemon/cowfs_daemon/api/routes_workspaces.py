"""Routes of workspaces and snapshots: one verb of the engine each."""

import base64
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Annotated, Any

import trio
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cowfs.errors import Busy, Invalid, NotFound
from cowfs.images import source_of
from cowfs.remembered import Imported
from cowfs.remembered import Request as Asked
from cowfs.results import Checkpointed, Restored, Snapshot, Workspace
from cowfs_daemon.api import bodies, shapes
from cowfs_daemon.api.limits import ASKED
from cowfs_daemon.api.verbs import Verbs

RefQuery = Annotated[str, Query(min_length=1, max_length=1024)]
NDJSON = "application/x-ndjson"
_PAUSE = partial(time.sleep, 0.05)


async def _asked(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Asked | None:
    found: Asked | None = request.scope.get(ASKED)  # made from the header and all the rest, see limits.py
    return found


Keyed = Annotated[Asked | None, Depends(_asked)]
"""The request's idempotency key with its digest; None without one."""


def workspace_of(ref: str) -> str:
    """The workspace whose lock a verb on ``ref`` takes."""
    return ref.partition("@")[0]


def decode_path(encoded: str) -> bytes:
    """The path that base64 text means. Raises Invalid."""
    try:
        path = base64.b64decode(encoded, validate=True)
    except ValueError as error:  # also for what is not ASCII
        raise Invalid(f"not base64: {encoded[:40]!r}") from error
    if b"\0" in path:
        raise Invalid("a path cannot contain a NUL byte")
    return path


def router(verbs: Verbs) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")
    _workspaces(routes, verbs)
    _branches(routes, verbs)
    _snapshots(routes, verbs)
    return routes


def _shape(verbs: Verbs, workspace: Workspace) -> shapes.WorkspaceShape:
    return shapes.workspace(workspace, verbs.mounts.path_of(workspace.name))


def _json(body: bytes) -> Response:
    """An answer that may be long, made by the thread that has asked: all others wait for the one that serves."""
    return Response(body, media_type="application/json")


def _find(verbs: Verbs, name: str) -> Workspace:
    for workspace in verbs.engine.list():
        if workspace.name == name:
            return workspace
    raise NotFound(f"no workspace named {name!r}", hint="`cowfs list` shows them")


def _mounts_of(verbs: Verbs, ref: str) -> list[str]:
    """What is to be unmounted before ``ref`` is removed: its snapshots, where it is a workspace, then itself."""
    found = []
    for each in verbs.mounts.wanted():
        with suppress(NotFound):  # mounted, and removed since
            if each.startswith("snap-") and verbs.engine.snapshot(each).workspace == ref:
                found.append(each)
    return [*found, ref]


def family(name: str, workspaces: list[Workspace], snapshots: list[Snapshot]) -> tuple[list[Workspace], list[Snapshot]]:
    """The snapshots of the workspace ``name`` and what descends from them, with the workspaces on top of those."""
    kept = {each.id for each in snapshots if each.workspace == name}
    children: dict[str | None, list[str]] = {}
    for each in snapshots:
        children.setdefault(each.parent, []).append(each.id)
    below = list(kept)
    while below:
        new = [child for child in children.get(below.pop(), ()) if child not in kept]
        kept.update(new)
        below.extend(new)
    return (
        [each for each in workspaces if each.name == name or each.head in kept],
        [each for each in snapshots if each.id in kept],
    )


def _workspaces(routes: APIRouter, verbs: Verbs) -> None:
    @routes.get("/workspaces", response_model=list[shapes.WorkspaceShape])
    async def list_workspaces() -> Response:
        def list_workspaces() -> Response:
            return _json(shapes.listed(_shape(verbs, each) for each in verbs.engine.list()))

        return await verbs.run(list_workspaces)

    @routes.post("/workspaces", response_model=shapes.WorkspaceShape, status_code=201)
    async def create(body: bodies.Create, asked: Keyed) -> JSONResponse:
        made, fresh = await verbs.once("create", asked, lambda: verbs.engine.create(body.name, asked), (body.name,))
        if fresh:
            verbs.emit("created", workspace=made.name)
        return JSONResponse(shapes.workspace(made, None), status_code=201)

    @routes.post("/imports")
    async def import_tree(body: bodies.Import, asked: Keyed) -> StreamingResponse:
        """Lines `{"progress": {…}}`, then `{"workspace": {…}, "problems": […]}` or `{"error": {…}}`."""
        source = decode_path(body.source_b64) if body.source_b64 is not None else os.fsencode(body.source or "")
        source_of(source)

        def work(progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
            problems: list[str] = []
            known = verbs.engine.keys.find(asked)
            if isinstance(known, Imported):
                return {"workspace": shapes.workspace(known.workspace, None), "problems": list(known.problems)}

            def report(counts: dict[str, Any]) -> None:
                problems.extend(counts.pop("problems", ()))
                progress(counts)

            made = verbs.engine.import_tree(source, body.name, body.exclude, report, asked, body.limit, body.ttl)
            trio.from_thread.run_sync(partial(verbs.emit, "created", workspace=made.name))
            return {"workspace": shapes.workspace(made, None), "problems": problems}

        return StreamingResponse(verbs.lines(work, body.name, asked=asked), media_type=NDJSON)

    @routes.post("/exports")
    async def export(body: bodies.Export) -> StreamingResponse:
        """Lines `{"progress": {…}}`, then `{"target": …, "problems": […]}` or `{"error": {…}}`."""
        target = decode_path(body.target_b64)
        source_of(target)

        def work(progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
            problems = verbs.engine.export(body.ref, target, progress)
            return {"target": os.fsdecode(target).encode(errors="replace").decode(), "problems": list(problems)}

        return StreamingResponse(verbs.lines(work), media_type=NDJSON)

    @routes.get("/tree", response_model=shapes.TreeShape)
    async def tree(workspace: Annotated[str | None, Query(max_length=255)] = None) -> Response:
        """Workspaces and snapshots with their parents: all, or those below the oldest snapshot of `workspace`."""

        def work() -> Response:
            workspaces = verbs.engine.list()
            if workspace is not None:
                _find(verbs, workspace)
            # A log has the snapshots of the ancestors too: each counts once.
            lines = (each for owner in workspaces for each in verbs.engine.log(owner.name))
            snapshots = list({each.id: each for each in lines}.values())
            if workspace is not None:
                workspaces, snapshots = family(workspace, workspaces, snapshots)
            parts = (
                shapes.listed(_shape(verbs, each) for each in workspaces),
                shapes.listed(map(shapes.snapshot, snapshots)),
            )
            return _json(b'{"workspaces": %s, "snapshots": %s}' % parts)

        return await verbs.run(work)

    @routes.get("/workspaces/{name}", response_model=shapes.WorkspaceShape)
    async def workspace(name: str) -> JSONResponse:
        return JSONResponse(_shape(verbs, await verbs.run(_find, verbs, name)))

    @routes.post("/workspaces/{name}/rename", response_model=shapes.WorkspaceShape)
    async def rename(name: str, body: bodies.Rename, asked: Keyed) -> JSONResponse:

        def work() -> Workspace:
            with verbs.mounts.unmounted(name):
                return verbs.engine.rename(name, body.name, asked)

        renamed, fresh = await verbs.once("rename", asked, work, (name, body.name))
        if fresh:
            verbs.emit("renamed", workspace=renamed.name, old_name=name)
        return JSONResponse(shapes.workspace(renamed, None))


def _branches(routes: APIRouter, verbs: Verbs) -> None:
    @routes.post("/workspaces/{name}/checkpoint", response_model=shapes.CheckpointShape)
    async def checkpoint(name: str, body: bodies.Checkpoint, asked: Keyed) -> JSONResponse:
        def work() -> Checkpointed:
            with verbs.disks.frozen(name):
                return verbs.engine.checkpoint(
                    name, body.message, body.label, body.allow_empty, body.creator, request=asked,
                    automatic=body.automatic,
                )  # fmt: skip

        done, fresh = await verbs.once(
            "checkpoint",
            asked,
            work,
            (name,),
        )
        if fresh:
            verbs.emit("checkpointed", workspace=name, snapshot=done.snapshot.id, changed=done.changed)
        return JSONResponse(shapes.checkpointed(done))

    @routes.post("/workspaces/{name}/restore", response_model=shapes.RestoreShape)
    async def restore(name: str, body: bodies.Restore, asked: Keyed) -> JSONResponse:
        def work() -> Restored:
            if verbs.disks.is_attached(name):  # not to be forced: this kernel would write what it remembers into it
                raise Busy(
                    f"the disk of {name} is attached",
                    hint="`cowfs disk restore` detaches it, restores and attaches it again.",
                )
            if body.ref is None:
                return verbs.engine.undo(name, asked)
            ref = name + body.ref if body.ref.startswith("@") else body.ref
            return verbs.engine.restore(name, ref, body.discard, body.force, asked)

        done, fresh = await verbs.once("undo" if body.ref is None else "restore", asked, work, (name,))
        if fresh:
            verbs.emit("restored", workspace=name, snapshot=done.snapshot.id)
        return JSONResponse(shapes.restored(done))

    @routes.post("/workspaces/{name}/remove-path", response_model=shapes.CountShape)
    async def remove_path(name: str, body: bodies.RemovePath) -> JSONResponse:
        """Remove a file, or a directory with everything in it, as `rm -r` does."""
        path = decode_path(body.path_b64)
        count = await verbs.run(verbs.engine.paths.remove, name, path, _PAUSE)
        verbs.emit("path_removed", workspace=name)
        return JSONResponse({"count": count})

    @routes.post("/workspaces/{name}/clone-path", response_model=shapes.CountShape, status_code=201)
    async def clone_path(name: str, body: bodies.ClonePath) -> JSONResponse:
        """Clone a file or a directory as `cp -a` copies it; bytes are shared."""
        source, target = decode_path(body.source_b64), decode_path(body.target_b64)
        count = await verbs.run(verbs.engine.paths.clone, name, source, target, _PAUSE)
        verbs.emit("path_cloned", workspace=name)
        return JSONResponse({"count": count}, 201)

    @routes.post("/forks", response_model=list[shapes.WorkspaceShape], status_code=201)
    async def fork(body: bodies.Fork, asked: Keyed) -> JSONResponse:
        def work() -> list[Workspace]:
            with verbs.disks.frozen(body.ref):
                return verbs.engine.fork(body.ref, body.name, body.count, asked)

        made, fresh = await verbs.once("fork", asked, work, (workspace_of(body.ref), body.name))
        if fresh:
            verbs.emit("forked", ref=body.ref, workspaces=[each.name for each in made])
        return JSONResponse([shapes.workspace(each, None) for each in made], status_code=201)

    @routes.get("/workspaces/{name}/log", response_model=list[shapes.SnapshotShape])
    async def log(name: str) -> Response:
        def log() -> Response:
            return _json(shapes.listed(map(shapes.snapshot, verbs.engine.log(name))))

        return await verbs.run(log)

    @routes.get("/diff", response_model=list[shapes.ChangeShape] | shapes.DiffShape)
    async def diff(a: RefQuery, b: RefQuery, limit: Annotated[int | None, Query(ge=1, le=2**53)] = None) -> Response:
        """What changed from `a` to `b`: a list, or with `limit` an object with so many at most."""

        def diff() -> Response:
            if limit is None:
                return _json(shapes.listed(map(shapes.change, verbs.engine.diff(a, b))))
            found = verbs.engine.diff(a, b, limit + 1)
            more = b"true" if len(found) > limit else b"false"
            return _json(b'{"changes": %s, "more": %s}' % (shapes.listed(map(shapes.change, found[:limit])), more))

        return await verbs.run(diff)


def _snapshots(routes: APIRouter, verbs: Verbs) -> None:
    @routes.get("/snapshots/{ref}", response_model=shapes.SnapshotShape)
    async def snapshot(ref: str) -> JSONResponse:
        return JSONResponse(shapes.snapshot(await verbs.run(verbs.engine.snapshot, ref)))

    @routes.post("/snapshots/{ref}/labels", response_model=shapes.SnapshotShape)
    async def label(ref: str, body: bodies.Label, asked: Keyed) -> JSONResponse:
        labelled, fresh = await verbs.once(
            "label", asked, lambda: verbs.engine.label(ref, body.label, body.move, asked), (workspace_of(ref),)
        )
        if fresh:
            verbs.emit("labelled", snapshot=labelled.id, label=body.label)
        return JSONResponse(shapes.snapshot(labelled))

    @routes.get("/settings", response_model=shapes.SettingsShape)
    async def settings(ref: RefQuery) -> JSONResponse:
        """Every setting that a workspace or snapshot may have, set or not."""
        return JSONResponse(shapes.settings(ref, await verbs.run(verbs.engine.settings, ref)))

    @routes.patch("/settings", response_model=shapes.SettingsShape)
    async def change(body: bodies.Set, asked: Keyed) -> JSONResponse:
        """Change settings, all or none; null or empty text takes one away."""
        _, fresh = await verbs.once(
            "set", asked, lambda: verbs.engine.set(body.ref, body.settings, body.move, asked), (workspace_of(body.ref),)
        )
        if fresh:
            verbs.emit("set", ref=body.ref, keys=sorted(body.settings))
        return JSONResponse(shapes.settings(body.ref, await verbs.run(verbs.engine.settings, body.ref)))

    @routes.delete("/refs", status_code=204)
    async def remove(ref: RefQuery, asked: Keyed, force: bool = False) -> None:
        """Remove a workspace with its snapshots, or one snapshot."""

        def work() -> None:
            going = _mounts_of(verbs, ref)
            with ExitStack() as detached:
                for each in going:
                    detached.enter_context(verbs.disks.released(each, force))
                verbs.mounts.umount_all(going, force)
                verbs.engine.remove(ref, force, asked)

        _, fresh = await verbs.once("remove", asked, work, (workspace_of(ref),))
        if fresh:
            verbs.emit("removed", ref=ref)

    @routes.get("/files")
    async def show(
        ref: RefQuery,
        path: Annotated[str, Query(max_length=4096)] = "",
        path_b64: Annotated[str | None, Query(max_length=8192)] = None,
    ) -> StreamingResponse:
        """The content of a file; `path` (or `path_b64`, where it is not UTF-8) is relative to the root."""
        exact = decode_path(path_b64) if path_b64 is not None else path.encode()

        def begin() -> tuple[bytes | None, Any]:
            pieces = iter(verbs.engine.show(ref, exact))
            return next(pieces, None), pieces

        # The first piece is read before the answer begins, so that an error has a status of its own.
        first, rest = await verbs.run(begin)
        return StreamingResponse(verbs.pieces(first, rest), media_type="application/octet-stream")
