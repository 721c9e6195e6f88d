"""Errors as OpenAI's clients expect them: a status and ``{"error": {message, type, param, code}}``, in one line."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgekit.errors import AudioError, EdgeKitError, RefusedError, UsageError
from edgekit.reprs import cut

RETRY_S = 1
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip
_MESSAGES = {
    404: "path: there is no such route; docs/http.md lists them",
    405: "method: this route does not take it; the header Allow says which it takes",
}


class ApiError(Exception):
    """What a request is answered with in place of a result. ``param``: the parameter that it is about."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = {"Retry-After": str(RETRY_S)} if status in {429, 503} else {}

    def to_dict(self) -> dict[str, Any]:
        """Return it as OpenAI writes it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the answer."""
        return JSONResponse(self.to_dict(), self.status, headers=self.headers)


def unknown(name: str, step: str) -> ApiError:
    """Return the error of a parameter that is not known here."""
    shown = cut(ascii(name)[1:-1], 60)
    return ApiError(400, f"{shown}: not known here; {step}", param=shown, code="unknown_parameter")


def refused(name: str, value: object, step: str) -> ApiError:
    """Return the error of a parameter that is known and does nothing here, with a value that asks for something."""
    return ApiError(
        400, f"{name}: {cut(ascii(value), 60)} is not done here; {step}", param=name, code="unsupported_value"
    )


def api_error(error: EdgeKitError) -> ApiError:
    """Return one of our errors as an answer; a UsageError begins with the option that it is about."""
    if isinstance(error, RefusedError):
        return ApiError(429 if error.reason in {"streams", "late", "full"} else 503, str(error), code=error.reason)
    if isinstance(error, AudioError):
        return ApiError(400, str(error), param="file", code="invalid_audio")
    if isinstance(error, UsageError):
        name = str(error).partition(":")[0]
        return ApiError(400, str(error), param=name if name.isidentifier() else None, code="invalid_value")
    return ApiError(500, str(error))


async def on_error(_: Request, error: Exception) -> Response:
    """Return the answer to a request in which something was raised."""
    if isinstance(error, EdgeKitError):
        return api_error(error).response()
    if isinstance(error, HTTPException):
        made = ApiError(error.status_code, _MESSAGES.get(error.status_code, cut(ascii(error.detail)[1:-1])))
        made.headers |= dict(error.headers or {})
        return made.response()
    assert isinstance(error, ApiError), "a handler of what it was registered for"
    return error.response()
