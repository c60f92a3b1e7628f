"""A stateful stand-in for the API of Kubeflow Pipelines, over real HTTP, as strict as the server is.

Bodies are checked by the official models (kfp-server-api) and compiled pipelines by the official protocol
(kfp-pipeline-spec). The server's own rules are those of kubeflow/pipelines, backend/src/apiserver: v2_template.go
(parameters), recurring_run_server.go (concurrency, cron), validation/length.go (names), model/pipeline_tags.go (tags).
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from kfp.pipeline_spec import pipeline_spec_pb2

MODELS = kfp_server_api.ApiClient()
KINDS = {"STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float),
         "LIST": list, "STRUCT": dict}  # fmt: skip
PAGE = """<!DOCTYPE html><html><body><form action="/dex/auth">Log in</form></body></html>"""


class Refused(Exception):
    """An answer that is no success: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class Store:
    """What the server holds, and how it is told to behave."""

    def __init__(self) -> None:
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.schedules: list[dict[str, Any]] = []
        self.token: str | None = None
        """Where given, requests must carry it."""
        self.states = ["SUCCEEDED"]
        """States of a run, one a question; the last one stays."""
        self.tasks: list[dict[str, Any]] = []
        """Tasks that a run shows."""
        self.next_answers: list[tuple[int, str, str]] = []
        """(status, content type, body) instead of the next answers to GET."""
        self.broken = ""
        """METHOD /path prefix that fails with 500."""
        self.asked: list[str] = []
        """METHOD /path of each request."""


@contextmanager
def kfp_server() -> Iterator[tuple[str, Store]]:
    """The server's address and its store."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, *_: Any) -> None:
        """Nothing: a test's output is its own."""

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.asked.append(f"{method} {url.path}")
        try:
            if method == "GET" and self.store.next_answers:
                return self._answer(*self.store.next_answers.pop(0))
            if self.store.token and self.headers.get("Authorization") != f"Bearer {self.store.token}":
                raise Refused(401, "Request is unauthenticated")
            if self.store.broken and f"{method} {url.path}".startswith(self.store.broken):
                raise Refused(500, "InternalServerError: the database is gone")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            answer = _route(self.store, method, url.path.removeprefix("/apis/v2beta1"), query, (self.headers, body))
            self._answer(200, "application/json", json.dumps(answer))
        except Refused as refusal:
            words = {"error": refusal.message, "code": 3, "message": refusal.message, "details": []}
            self._answer(refusal.status, "application/json", json.dumps(words))

    def _answer(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Set-Cookie", "session=do-not-print")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _route(store: Store, method: str, path: str, query: dict[str, str], sent: Any) -> dict[str, Any]:
    words = path.strip("/").split("/")
    match method, words:
        case "GET", ["pipelines"]:
            return _page(store.pipelines, "pipelines", query)
        case "POST", ["pipelines"]:
            return _create_pipeline(store, _body("V2beta1Pipeline", sent))
        case "POST", ["pipelines", "upload_version"]:
            return _upload_version(store, query, sent)
        case "GET", ["pipelines", pipeline, "versions"]:
            return _page([v for v in store.versions if v["pipeline_id"] == pipeline], "pipeline_versions", query)
        case "GET", ["experiments"]:
            return _page(store.experiments, "experiments", query)
        case "POST", ["experiments"]:
            return _create_experiment(store, _body("V2beta1Experiment", sent))
        case "POST", ["runs"]:
            return _create_run(store, _body("V2beta1Run", sent))
        case "GET", ["runs"]:
            return _page(store.runs, "runs", query)
        case "GET", ["runs", run]:
            return _advance(store, _found(store.runs, "run_id", run))
        case "POST", ["recurringruns"]:
            return _create_schedule(store, _body("V2beta1RecurringRun", sent))
        case "GET", ["recurringruns"]:
            return _page(store.schedules, "recurringRuns", query)
        case "DELETE", ["recurringruns", schedule]:
            store.schedules.remove(_found(store.schedules, "recurring_run_id", schedule))
            return {}
    raise Refused(404, f"{method} {path}: not found")


def _body(model: str, sent: Any) -> dict[str, Any]:
    """A body that the model describes, with no field beside; numbers may be quoted, as protobuf allows."""
    body = json.loads(sent[1])
    try:
        again = MODELS.sanitize_for_serialization(MODELS.deserialize(SimpleNamespace(data=json.dumps(body)), model))
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(400, f"{model}: {error}") from None
    _same(body, again, model)
    return body


def _same(body: Any, again: Any, where: str) -> None:
    if isinstance(body, dict) and isinstance(again, dict):
        for key, value in body.items():
            if key not in again:
                raise Refused(400, f"unknown field {where}.{key}")
            _same(value, again[key], f"{where}.{key}")
    elif str(body) != str(again):
        raise Refused(400, f"{where}: {body!r} is of the wrong type")


def _found(items: list[dict[str, Any]], key: str, value: str) -> dict[str, Any]:
    for item in items:
        if item[key] == value:
            return item
    raise Refused(404, f"ResourceNotFoundError: {key} {value} not found")


def _page(items: list[dict[str, Any]], field: str, query: dict[str, str]) -> dict[str, Any]:
    """A page of those that the filter lets through; 20 where no size is given, as the server has it."""
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        if (predicate["operation"], predicate["key"]) != ("EQUALS", "display_name"):
            raise Refused(400, f"no such filter: {predicate}")
        items = [item for item in items if item["display_name"] == predicate["stringValue"]]
    if query.get("sort_by") == "created_at desc":
        items = items[::-1]
    first = int(query.get("page_token") or 0)
    after = first + int(query.get("page_size") or 20)
    more = {"next_page_token": str(after)} if after < len(items) else {}
    found = {field: items[first:after]} if items[first:after] else {}
    return {**found, "total_size": len(items), **more}


def _named(items: list[dict[str, Any]], body: dict[str, Any], what: str, longest: int) -> str:
    name = body.get("name") or body.get("display_name")
    if not name:
        raise Refused(400, "name is required")
    if len(name) > longest:
        raise Refused(400, f"{what}.Name length cannot exceed {longest}")
    if any(item["display_name"] == name for item in items):
        raise Refused(409, f"Already exist error: the {what} {name} already exists")
    return str(name)


def _create_pipeline(store: Store, body: dict[str, Any]) -> dict[str, Any]:
    name = _named(store.pipelines, body, "Pipeline", 128)
    store.pipelines.append({**body, "pipeline_id": f"pipeline-{len(store.pipelines)}", "display_name": name})
    return store.pipelines[-1]


def _create_experiment(store: Store, body: dict[str, Any]) -> dict[str, Any]:
    _named(store.experiments, body, "Experiment", 128)
    store.experiments.append({**body, "experiment_id": f"experiment-{len(store.experiments)}"})
    return store.experiments[-1]


def _upload_version(store: Store, query: dict[str, str], sent: Any) -> dict[str, Any]:
    pipeline = _found(store.pipelines, "pipeline_id", query.get("pipelineid", ""))["pipeline_id"]
    siblings = [version for version in store.versions if version["pipeline_id"] == pipeline]
    name = _named(siblings, query, "PipelineVersion", 127)
    tags = json.loads(query.get("tags") or "{}")
    for key, value in tags.items():
        if not key or "." in key or len(key) > 63 or len(value) > 63:
            raise Refused(400, f"tag {key}: {value}: empty, with a dot, or longer than 63 characters")
    version = {
        "pipeline_id": pipeline,
        "pipeline_version_id": f"version-{len(store.versions)}",
        "display_name": name,
        "tags": tags,
        "pipeline_spec": _read_ir(_uploaded_file(*sent)),
    }
    store.versions.append(version)
    return version


def _uploaded_file(headers: Any, body: bytes) -> str:
    message = BytesParser().parsebytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    parts = message.get_payload()
    if not isinstance(parts, list) or parts[0].get_param("name", header="content-disposition") != "uploadfile":
        raise Refused(400, "Failed to read pipeline from file")
    return parts[0].get_payload(decode=True).decode()


def _read_ir(text: str) -> dict[str, Any]:
    """The pipeline's specification, as the protocol reads it."""
    try:
        spec, *platforms = yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        for platform in platforms:
            ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except (ParseError, yaml.YAMLError, ValueError, AttributeError) as error:
        raise Refused(400, f"unknown template format: {error}") from None
    return dict(spec)


def _check_arguments(store: Store, body: dict[str, Any]) -> None:
    """As the server: the version is there, and every parameter known, given where it must be, and of its type."""
    reference = body.get("pipeline_version_reference") or {}
    version = _found(store.versions, "pipeline_version_id", reference.get("pipeline_version_id", ""))
    if version["pipeline_id"] != reference.get("pipeline_id"):
        raise Refused(400, "the version is of another pipeline")
    wanted = version["pipeline_spec"].get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    given = body.get("runtime_config", {}).get("parameters", {})
    for name, facts in wanted.items():
        if name not in given and not facts.get("isOptional") and "defaultValue" not in facts:
            raise Refused(
                400, f"parameter {name} is not optional, yet has neither default value nor user provided value"
            )
        if name in given and not isinstance(given[name], KINDS[facts["parameterType"]]):
            raise Refused(400, f"input parameter {name} requires type {facts['parameterType']}")
    if given.keys() - wanted.keys():
        raise Refused(
            400, f"parameter(s) provided are not required by pipeline: {sorted(given.keys() - wanted.keys())}"
        )


def _create_run(store: Store, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("display_name"):
        raise Refused(400, "The run name is empty")
    _found(store.experiments, "experiment_id", body["experiment_id"])
    _check_arguments(store, body)
    made = {"run_id": f"run-{len(store.runs)}", "state": "PENDING", "created_at": "2025-01-02T03:04:05Z"}
    store.runs.append({**body, **made})
    return store.runs[-1]


def _advance(store: Store, run: dict[str, Any]) -> dict[str, Any]:
    run["state"] = store.states.pop(0) if len(store.states) > 1 else store.states[0]
    run["run_details"] = {"task_details": store.tasks}
    return run


def _create_schedule(store: Store, body: dict[str, Any]) -> dict[str, Any]:
    _found(store.experiments, "experiment_id", body["experiment_id"])
    _check_arguments(store, body)
    if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
        raise Refused(400, "The max concurrency of the recurring run is out of range. Support 1-10")
    cron = body["trigger"]["cron_schedule"]["cron"]
    if not re.fullmatch(r"(\S+ ){4,5}\S+", cron):
        raise Refused(400, f"Schedule cron is not a supported format: Expected 5 to 6 fields: {cron}")
    made = {
        "recurring_run_id": f"schedule-{len(store.schedules)}-{len(store.asked)}",
        "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
    }
    store.schedules.append({**body, **made})
    return store.schedules[-1]
