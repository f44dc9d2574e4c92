"""The FastAPI application. Answers are built by ``shapes`` and written as they are; the response models only
document them (``/v1/openapi.json``)."""

from fastapi import FastAPI

from cowfs_daemon.api import failures, routes_store, routes_workspaces
from cowfs_daemon.api.limits import Asgi, BoundedBody
from cowfs_daemon.api.verbs import Verbs


def create_app(verbs: Verbs, version: str) -> Asgi:
    """The ASGI application that serves API v1 on ``verbs``."""
    app = FastAPI(
        title="cowfs",
        version=version,
        description="Workspaces that fork, checkpoint and restore instantly.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    failures.install(app)
    app.include_router(routes_workspaces.router(verbs))
    app.include_router(routes_store.router(verbs))
    app.include_router(routes_store.metrics_router(verbs))
    return BoundedBody(app)
