"""What a client is told when it asks for what cannot be: OpenAI's error shape, with a reason."""

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class ApiError(Exception):
    """One refusal. `param` names the field of the body; `message` says what was wanted, what came
    and what to do."""

    message: str
    param: str | None = None
    status: int = 400
    type: str = "invalid_request_error"
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def unauthorized() -> ApiError:
    return ApiError(
        "a valid token was wanted; send `Authorization: Bearer TOKEN` with the token that"
        " `workbench serve` was started with",
        status=401,
        code="invalid_api_key",
    )


def busy(waiting: int) -> ApiError:
    return ApiError(
        f"{waiting} requests wait already; try again later, or start with a greater --queue",
        status=429,
        type="rate_limit_error",
        code="queue_full",
    )


def failed(why: str) -> ApiError:
    return ApiError(f"the run ended by an error: {why}", status=500, type="server_error")
