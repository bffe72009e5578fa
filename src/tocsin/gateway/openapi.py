"""Operations of the admin API, and the OpenAPI 3.1 document that follows from them."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import tocsin
from tocsin.core.call import Principal
from tocsin.gateway.access import Level
from tocsin.gateway.admin_input import HEADERS
from tocsin.gateway.admin_models import Args
from tocsin.gateway.problems import MEDIA_TYPE, Problem

_REF = "#/components/schemas/{model}"
EVENTS = "text/event-stream"
_EVENT: Mapping[str, Any] = {
    "type": "object",
    "description": "Each event of the stream; the last says `[DONE]`.",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "Its number."},
        "event": {"type": "string", "description": "Its type."},
        "data": {"type": "string", "description": "A JSON object."},
    },
    "required": ["data"],
}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path of the API. ``run`` gets the deps, the arguments and who asks."""

    method: str
    path: str
    name: str
    """``operationId`` of the document."""
    summary: str
    role: Level
    args: type[Args]
    result: type[BaseModel] | None
    """``None``: server-sent events, which ``run`` gives as a response."""
    run: Callable[[Any, Any, Principal], Any]
    status: int = 200
    missing: bool = False
    """Whether it can answer 404."""
    conflict: bool = False
    """Whether it can answer 409."""
    max_body: int = 64 * 1024
    """Largest body, in bytes."""


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document of these operations, as plain values."""
    schemas, components = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin admin API",
            "version": tocsin.__version__,
            "summary": "What was recorded, who may call, and what is configured.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "security": [{"bearer": []}, {"tocsinKey": []}, {"xApiKey": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A Tocsin key."},
                "tocsinKey": {"type": "apiKey", "in": "header", "name": "tocsin-key"},
                "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


Schemas = Mapping[Any, Mapping[str, Any]]
"""(model, direction) → its schema."""


def _schemas(operations: Sequence[Operation]) -> tuple[Schemas, dict[str, Any]]:
    """Schemas of all models, by model and direction, and their shared definitions."""
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for operation in operations:
        wanted[operation.args, "validation"] = None
        if operation.result is not None:
            wanted[operation.result, "serialization"] = None
    schemas, shared = models_json_schema(list(wanted), ref_template=_REF)
    components: dict[str, Any] = shared.get("$defs", {})
    # The arguments are spread over parameters and a body: as one object they are nobody's schema.
    for operation in operations:
        components.pop(operation.args.__name__, None)
    return schemas, components


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    # ``models_json_schema`` gives references; the models of arguments are small and stand alone.
    schema = operation.args.model_json_schema(ref_template=_REF)
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    headers = [
        f" Header `{HEADERS[name]}`: {properties.pop(name)['description']}"
        for name in HEADERS.keys() & properties.keys()
    ]
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs the role `{operation.role}`.{''.join(headers)}",
        "responses": _responses(operation, schemas),
    }
    body = properties.pop("body", None)
    parameters = [_parameter(name, value, operation) for name, value in properties.items()]
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


def _parameter(name: str, schema: Mapping[str, Any], operation: Operation) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key not in ("title", "description")}
    options = plain.pop("anyOf", None)
    if options is not None:
        # A query cannot carry null: leaving the parameter out says the same.
        (only,) = [option for option in options if option.get("type") != "null"]
        plain = only
    in_path = f"{{{name}}}" in operation.path or f"{{{name}:" in operation.path
    return {
        "name": name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": schema.get("description", ""),
        "schema": plain,
    }


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    if operation.result is None:
        answer: dict[str, Any] = {EVENTS: {"schema": _EVENT}}
    else:
        answer = {"application/json": {"schema": schemas[operation.result, "serialization"]}}
    refusal = schemas[Problem, "serialization"]
    statuses = [401, 403]
    takes = set(operation.args.model_fields)
    if operation.missing or "cursor" in takes:
        statuses.append(404)
    if operation.conflict:
        statuses.append(409)
    if "body" in takes:
        statuses += [413, 415]
    statuses += [400, 422, 500, 503]
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": HTTPStatus(operation.status).phrase,
            "content": answer,
        }
    }
    for status in sorted(statuses):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": refusal}},
        }
    return responses
