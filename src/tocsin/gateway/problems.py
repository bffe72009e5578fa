"""Errors of the admin API and the gate as RFC 9457 problems (``application/problem+json``)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, Field
from starlette.responses import Response

from tocsin.core.errors import CallError

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One parameter at fault."""

    where: Literal["path", "query", "body", "header"] = Field(
        description="Part of the request that holds the parameter."
    )
    name: str = Field(description="Name of the parameter; dots lead into a body.")
    message: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: Literal["about:blank"] = Field(
        "about:blank", description="No page describes it further; `code` is for programs."
    )
    title: str = Field(description="The phrase of the HTTP status.")
    status: Annotated[int, Field(ge=400, le=599, description="The HTTP status.")]
    detail: str = Field(description="What happened and what to do about it.")
    code: str = Field(description="A stable word for programs.")
    faults: list[Fault] = Field(default=[], description="The parameters at fault, if any.")


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    faults: list[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response that says what went wrong."""
    body = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        faults=faults or [],
    )
    return Response(
        msgspec.json.encode(body.model_dump()),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"cache-control": "no-store", **(headers or {})},
    )


def problem_of(error: CallError) -> Response:
    """The response for an error of the product's own kind."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="tocsin"'
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    faults = [Fault(where="body", name=error.param, message=error.message)] if error.param else None
    return problem(error.status, error.code, error.message, faults=faults, headers=headers)
