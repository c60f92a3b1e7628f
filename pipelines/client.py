"""A thin wrapper of kfp.Client: what that leaves to chance is settled here.

- every request has a time limit, and a server that is away is told in one line;
- a login page instead of an answer is recognised;
- waiting knows every terminal state, and a run that did not succeed is an error;
- runs and schedules are pinned to a version, and a schedule is replaced by its name.
"""

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import kfp
import kfp_server_api as api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from cytoloop.errors import ServerAway, SubmissionError

TERMINAL = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
PATIENCE = 5
"""Questions in a row that may find the server away while waiting."""
TAG = 63
"""Characters of a version's tag; the server takes no more (model/pipeline_tags.go)."""


class Access(NamedTuple):
    """How the API of Kubeflow Pipelines is reached."""

    endpoint: str
    namespace: str = ""
    """Of a multi-user deployment; empty for a single user."""
    token_file: Path | None = None
    """Read anew for each request, since a cluster renews it."""
    ca_file: Path | None = None
    timeout_s: int = 30
    """Of connecting, and of each answer, seconds."""


class Version(NamedTuple):
    """A pipeline as it was uploaded, which never changes."""

    pipeline_id: str
    version_id: str
    name: str


class Order(NamedTuple):
    """What is to be run."""

    version: Version
    name: str
    arguments: dict[str, Any]
    description: str
    experiment: str


class Cluster:
    """The runs, versions and schedules of a cluster.

    Raises, from every method: ServerAway where the server cannot be reached or fails on its side, SubmissionError
    where it refuses.
    """

    def __init__(self, access: Access) -> None:
        if "@" in urlsplit(access.endpoint).netloc:
            raise SubmissionError("the endpoint holds a user or password, which would be printed; give --token-file")
        if not access.endpoint.startswith(("http://", "https://")):
            raise SubmissionError(
                f"endpoint {access.endpoint!r}: give the address of Kubeflow Pipelines, from http:// or https:// on, "
                "by --endpoint or KF_PIPELINES_ENDPOINT"
            )
        self._access = access
        self._kfp = _connect(access)

    def upload(self, package: Path, pipeline: str, version: str, tags: dict[str, str]) -> Version:
        """The version of that name; the package is sent when the cluster does not have it yet."""
        pipeline_id = self._pipeline(pipeline)
        listed = self._call(self._kfp.list_pipeline_versions, pipeline_id=pipeline_id, filter=_named(version))
        found = (listed.pipeline_versions or [None])[0] or self._call(
            self._kfp.pipeline_uploads.upload_pipeline_version,
            str(package),
            name=version,
            pipelineid=pipeline_id,
            tags=json.dumps({name: value[-TAG:] for name, value in tags.items() if value}),
        )
        return Version(pipeline_id, found.pipeline_version_id, version)

    def run(self, order: Order) -> str:
        """Start a run; returns its id."""
        body = api.V2beta1Run(
            experiment_id=self._experiment(order.experiment),
            display_name=order.name,
            description=order.description,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=order.version.pipeline_id, pipeline_version_id=order.version.version_id
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=order.arguments),
        )
        return str(self._call(self._kfp.runs.run_service_create_run, run=body).run_id)

    def get(self, run_id: str) -> Any:
        """A run (kfp_server_api.V2beta1Run)."""
        return self._call(self._kfp.get_run, run_id)

    def newest(self, count: int) -> list[Any]:
        """The newest runs, the newest first."""
        found = self._call(
            self._kfp.list_runs, page_size=count, sort_by="created_at desc", namespace=self._access.namespace
        )
        return list(found.runs or [])

    def wait(self, run_id: str, limit_s: float, poll_s: float, told: Callable[[str], None]) -> None:
        """Wait until the run has succeeded.

        Args:
            run_id: of the run.
            limit_s: how long, seconds.
            poll_s: between two questions, seconds.
            told: is called with each new state, and when the server is away.

        Raises:
            SubmissionError: it ended in another way (with what is known of why), or the time is up.
            ServerAway: it was not there for PATIENCE questions in a row.
        """
        began, state, run = time.monotonic(), "", None
        while state not in TERMINAL:
            if state and time.monotonic() - began + poll_s > limit_s:
                raise SubmissionError(
                    f"run {run_id} is {state} after {limit_s:g} s; it goes on. Wait again with more --limit, or end it "
                    "in the cluster"
                )
            time.sleep(poll_s if state else 0)
            run = self._patiently(run_id, poll_s, told)
            if (run.state or "PENDING") != state:
                state = run.state or "PENDING"
                told(state)
        _refuse_failed(run)

    def _patiently(self, run_id: str, poll_s: float, told: Callable[[str], None]) -> Any:
        for _ in range(PATIENCE - 1):
            try:
                return self.get(run_id)
            except ServerAway as error:
                told(str(error))
                time.sleep(poll_s)
        return self.get(run_id)

    def schedule(self, order: Order, cron: str, max_concurrency: int) -> str:
        """Run by a schedule from now on, in place of all schedules of that name; returns its id.

        The new one is made before the old ones are deleted: a failure between leaves two, which the next call
        clears, and never none, which nobody would notice. Missed runs are not made up for.
        """
        old = self.schedules(order.name)
        made = self._call(
            self._kfp.create_recurring_run,
            experiment_id=self._experiment(order.experiment),
            job_name=order.name,
            description=order.description,
            cron_expression=cron,
            max_concurrency=max_concurrency,
            no_catchup=True,
            params=order.arguments,
            pipeline_id=order.version.pipeline_id,
            version_id=order.version.version_id,
        )
        for schedule in old:
            self.delete_schedule(schedule)
        return str(made.recurring_run_id)

    def schedules(self, name: str | None = None) -> list[Any]:
        """All schedules (kfp_server_api.V2beta1RecurringRun), or those of a name."""
        found = self._pages(
            lambda page: self._call(
                self._kfp.list_recurring_runs, page_token=page, page_size=100, namespace=self._access.namespace
            ),
            "recurring_runs",
        )
        return [schedule for schedule in found if name in (None, schedule.display_name)]

    def delete_schedule(self, schedule: Any) -> None:
        """Delete a schedule; runs that it has started go on."""
        try:
            self._call(self._kfp.delete_recurring_run, schedule.recurring_run_id)
        except (SubmissionError, ServerAway) as error:
            raise type(error)(
                f"schedule {schedule.display_name} ({schedule.recurring_run_id}) is still there and will run: {error}"
            ) from None

    def _pipeline(self, name: str) -> str:
        """The pipeline's id; it is made, without a version, when it is not there."""
        space = self._access.namespace or None
        found = self._call(self._kfp.list_pipelines, namespace=space, filter=_named(name)).pipelines
        if found:
            return str(found[0].pipeline_id)
        body = api.V2beta1Pipeline(name=name, display_name=name, namespace=space)
        return str(self._call(self._kfp.pipelines.pipeline_service_create_pipeline, pipeline=body).pipeline_id)

    def _experiment(self, name: str) -> str:
        """The experiment's id; it is made when it is not there."""
        space = self._access.namespace or None
        found = self._call(self._kfp.list_experiments, namespace=space, filter=_named(name)).experiments
        if found:
            return str(found[0].experiment_id)
        body = api.V2beta1Experiment(display_name=name, namespace=space)
        return str(
            self._call(self._kfp.experiments.experiment_service_create_experiment, experiment=body).experiment_id
        )

    def _pages(self, fetch: Callable[[str], Any], field: str) -> Iterator[Any]:
        token = ""
        while True:
            page = fetch(token)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Ask the server; its troubles and refusals become errors for people."""
        where = self._access.endpoint
        try:
            return function(*arguments, **named)
        except api.ApiException as error:
            raise _refusal(error, where) from None
        except urllib3.exceptions.HTTPError as error:
            raise ServerAway(f"{where}: {_reason(error, self._access.timeout_s)}") from None
        except OSError as error:
            raise SubmissionError(f"{where}: {error}") from None


class _Quiet(kfp.Client):  # type: ignore[misc] # it has no types
    """kfp.Client whose constructor asks the server nothing: it would do so without a time limit."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        return api.V2beta1GetHealthzResponse(multi_user=False)


def _connect(access: Access) -> kfp.Client:
    """A client all of whose requests have a time limit and bring JSON."""
    for file in filter(None, (access.token_file, access.ca_file)):
        if not file.is_file():
            raise SubmissionError(
                f"{file}: no such file; correct --token-file (KF_PIPELINES_SA_TOKEN_PATH) or --ca-file"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that it is no client of version 1
        client = _Quiet(
            host=access.endpoint,
            namespace=access.namespace,
            credentials=ServiceAccountTokenVolumeCredentials(str(access.token_file)) if access.token_file else None,
            ssl_ca_cert=str(access.ca_file) if access.ca_file else None,
        )
    rest = client._run_api.api_client.rest_client  # one for all its APIs; there is no public way to it
    rest.pool_manager.connection_pool_kw["retries"] = urllib3.Retry(2, read=0, backoff_factor=0.2)
    plain = rest.request

    def request(*arguments: Any, **named: Any) -> Any:
        answer = plain(*arguments, **{**named, "_request_timeout": (access.timeout_s, access.timeout_s)})
        if _is_page(answer.data):
            raise SubmissionError(
                f"{access.endpoint}: answered with a web page, not with JSON: it asks for a login, or is another "
                "address than the API's. Give a token (--token-file), or correct --endpoint"
            )
        return answer

    rest.request = request
    return client


def _is_page(data: bytes) -> bool:
    return data.lstrip()[:1] == b"<"


def _named(name: str) -> str:
    """A filter of the API: display name equals."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _refuse_failed(run: Any) -> None:
    if run.state == "SUCCEEDED":
        return
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [f"{task.display_name}: {_message(task.error)}" for task in tasks if task.state == "FAILED"]
    reasons = [*([run.error.message] if run.error and run.error.message else []), *failed]
    raise SubmissionError("; ".join([f"run {run.run_id} ended {run.state}", *reasons]))


def _message(error: Any) -> str:
    return error.message if error and error.message else "no message; see its log in the cluster"


def _refusal(error: api.ApiException, where: str) -> Exception:
    """What the server said, without its headers, which may hold cookies."""
    said = _said(error.body)
    if error.status in (401, 403):
        return SubmissionError(
            f"{where}: not allowed ({error.status}): {said}. Give a valid token: --token-file or "
            "KF_PIPELINES_SA_TOKEN_PATH; where there are namespaces, --namespace"
        )
    if error.status == 429 or error.status >= 500:
        return ServerAway(f"{where}: the server failed ({error.status}): {said}. Try again, or see its log")
    return SubmissionError(f"{where}: refused ({error.status}): {said}")


def _said(body: str | None) -> str:
    """The message in the body of a refusal, cut to what a person reads."""
    try:
        tree = json.loads(body or "{}")
        text = next(str(tree[key]) for key in ("message", "error_message", "error") if tree.get(key))
    except (ValueError, AttributeError, StopIteration):
        text = "a web page" if (body or "").lstrip().startswith("<") else (body or "no message")
    return " ".join(text.split())[:400]


def _reason(error: Exception, timeout_s: float) -> str:
    """Why there was no answer, in one clause."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
        return f"no answer within {timeout_s} s; it may have done what it was asked, so look before asking again"
    refused = isinstance(cause, urllib3.exceptions.NewConnectionError)  # to urllib3 a kind of the next
    if isinstance(cause, urllib3.exceptions.ConnectTimeoutError) and not refused:
        return f"cannot be reached within {timeout_s} s; is the address right, and the way to it open?"
    if isinstance(cause, urllib3.exceptions.SSLError):
        return f"its certificate is not trusted ({cause.args[0]}); give the authority's by --ca-file"
    said = re.sub(r"\[Errno -?\d+\] ", "", str(cause).rpartition(": ")[2])
    return f"cannot be reached ({said}); is it running, and the address right?"
