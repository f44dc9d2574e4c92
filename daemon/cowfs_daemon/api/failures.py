"""The one place where errors become HTTP: ``{"error": {"code", "message", "hint"}}`` with the error's status."""

import errno
import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cowfs.errors import CowfsError, Invalid, NoSpace, NotFound

log = logging.getLogger("cowfs.api")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def as_cowfs_error(error: BaseException) -> CowfsError:
    """The branch of cowfs.errors that tells about ``error`` best; an unforeseen one is logged and ``internal``."""
    if isinstance(error, CowfsError):
        return error
    if isinstance(error, RequestValidationError):
        return Invalid(_first_fault(error))
    if isinstance(error, HTTPException):
        return NotFound("no such endpoint") if error.status_code == 404 else Invalid(str(error.detail))
    if isinstance(error, OSError) and error.errno in _FULL:
        return NoSpace(f"no space left: {error.strerror}", hint="remove workspaces or snapshots, then try again")
    log.error("unforeseen error", exc_info=error)
    return CowfsError(f"{type(error).__name__}: {error}", hint="this is a defect of cowfs; the daemon's log has more")


def error_shape(error: CowfsError) -> dict[str, Any]:
    """The JSON of an error."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def error_line(error: BaseException) -> bytes:
    """The last line of an answer that fails after it has begun."""
    return json.dumps(error_shape(as_cowfs_error(error))).encode() + b"\n"


def _first_fault(error: RequestValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query"))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


async def _respond(_: Request, error: Exception) -> JSONResponse:
    known = as_cowfs_error(error)
    return JSONResponse(error_shape(known), status_code=known.http_status)


def install(app: FastAPI) -> None:
    """Make every failure of ``app`` answer in that shape."""
    for kind in (CowfsError, RequestValidationError, HTTPException, OSError, Exception):
        app.add_exception_handler(kind, _respond)
