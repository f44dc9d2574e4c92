"""Routes of the store, its mounts and its daemon."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from cowfs_daemon.api import bodies, shapes
from cowfs_daemon.api.routes_workspaces import NDJSON, Keyed, RefQuery, workspace_of
from cowfs_daemon.api.verbs import Verbs
from cowfs_daemon.metrics import CONTENT_TYPE
from cowfs_daemon.ports import Progress


def router(verbs: Verbs) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")
    _mounts(routes, verbs)
    _disks(routes, verbs)

    @routes.get("/store", response_model=shapes.StoreShape)
    async def stat() -> JSONResponse:
        return JSONResponse(shapes.store_usage(await verbs.run(verbs.engine.stat)))

    @routes.post("/store/check", response_model=shapes.CheckShape)
    async def check(body: bodies.Check) -> JSONResponse:
        findings = [each.shape() for each in await verbs.run(verbs.engine.fsck, body.deep)]
        return JSONResponse({"clean": not findings, "findings": findings})

    @routes.post("/store/collect")
    async def collect(body: bodies.Collect) -> StreamingResponse:
        """Lines `{"progress": {…}}`, then what was removed (`blocks`, `bytes`, …) or `{"error": {…}}`."""

        def work(progress: Progress) -> dict[str, Any]:
            return asdict(verbs.engine.collect(body.dry_run, progress, body.prune))

        return StreamingResponse(verbs.lines(work), media_type=NDJSON)

    @routes.post("/store/scrub")
    async def scrub(body: bodies.Scrub) -> StreamingResponse:
        """Lines `{"progress": {…}}`, then what was read and found, or `{"error": {…}}`."""

        def work(progress: Progress) -> dict[str, Any]:
            return asdict(verbs.control.scrub(body.rate, progress))

        return StreamingResponse(verbs.lines(work), media_type=NDJSON)

    @routes.get("/daemon")
    async def daemon() -> JSONResponse:
        return JSONResponse(await verbs.run(verbs.control.status))

    @routes.post("/daemon/stop", status_code=204)
    async def stop(body: bodies.Stop) -> None:
        await verbs.run(verbs.control.stop, body.force)

    @routes.post("/daemon/restart", response_model=shapes.RestartShape)
    async def restart(body: bodies.Restart) -> JSONResponse:
        """Give way to the installed code, mounts kept; with `keeper`, that process goes on as it, too."""
        return JSONResponse(await verbs.run(verbs.control.restart, body.keeper))

    @routes.get("/events")
    async def events() -> StreamingResponse:
        """Events from now on, one JSON object a line, without end."""
        return StreamingResponse(verbs.events(), media_type=NDJSON)

    return routes


def metrics_router(verbs: Verbs) -> APIRouter:
    """What is not of version 1: Prometheus looks for it there."""
    routes = APIRouter()

    @routes.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Figures in the text format of Prometheus, 0.0.4."""
        return PlainTextResponse(await verbs.run(verbs.metrics), media_type=CONTENT_TYPE)

    return routes


def _mounts(routes: APIRouter, verbs: Verbs) -> None:
    @routes.get("/mounts", response_model=list[shapes.MountShape])
    async def list_mounts() -> JSONResponse:
        return JSONResponse([shapes.mounted(each) for each in await verbs.run(verbs.mounts.mounted)])

    @routes.post("/mounts", response_model=shapes.MountShape)
    async def mount(body: bodies.Mount, asked: Keyed) -> JSONResponse:
        """Mount a workspace, or a snapshot read-only, if it is not mounted."""
        mounted = await verbs.run(verbs.mounts.mount, body.ref, locks=(workspace_of(body.ref),), asked=asked)
        verbs.emit("mounted", ref=mounted.ref, path=mounted.path)
        return JSONResponse(shapes.mounted(mounted))

    @routes.delete("/mounts", status_code=204)
    async def umount(ref: RefQuery, asked: Keyed, force: bool = False) -> None:
        def umount() -> bool:
            if verbs.mounts.was_unmounted(asked):  # what is mounted and attached by now is another's
                return False
            with verbs.disks.released(ref, force):
                verbs.mounts.umount(ref, force, asked)
            return True

        if await verbs.run(umount, locks=(workspace_of(ref),), asked=asked):
            verbs.emit("unmounted", ref=ref)


def _disks(routes: APIRouter, verbs: Verbs) -> None:
    @routes.get("/disks", response_model=list[shapes.MountShape])
    async def list_disks() -> JSONResponse:
        """The disks that are attached; `path` is where their files are."""
        return JSONResponse([shapes.mounted(each) for each in await verbs.run(verbs.disks.attached)])

    @routes.post("/disks", response_model=shapes.MountShape)
    async def attach(body: bodies.Mount) -> JSONResponse:
        """Attach the disk of a workspace, or of a snapshot read-only, if it is not attached."""
        attached = await verbs.run(verbs.disks.attach, body.ref, locks=(workspace_of(body.ref),))
        verbs.emit("disk_attached", ref=attached.ref, path=attached.path)
        return JSONResponse(shapes.mounted(attached))

    @routes.delete("/disks", status_code=204)
    async def detach(ref: RefQuery, force: bool = False) -> None:
        """Detach a disk; afterwards everything is in its workspace."""
        await verbs.run(verbs.disks.detach, ref, force, locks=(workspace_of(ref),))
        verbs.emit("disk_detached", ref=ref)
