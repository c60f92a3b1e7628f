"""Submission against a stateful stand-in for the API of Kubeflow Pipelines, by the real kfp.Client over real HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import kfp
import kfp_server_api
import pytest

from cytoloop.params import load_params
from kfp_server import PAGE, kfp_server
from pipelines import submit
from pipelines.client import Access, Cluster, Order
from pipelines.compile import compile_pipeline
from pipelines.site import load_site
from servers import free_port

PROJECT = Path(__file__).parents[2]
COMMIT = "4f2c91e0" * 5
IMAGE = "registry.example/cytoloop@sha256:" + "0123456789abcdef" * 4
NIGHTLY = ["schedule", "nightly", "{package}", "--cron", "0 0 3 * * *"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Folder with the compiled pipelines."""
    folder = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYTOLOOP_GIT_COMMIT", COMMIT)
        site, params = load_site(PROJECT / "infra/sites/local.yaml"), load_params(PROJECT / "params.yaml")
        for name in ("training", "inference"):
            compile_pipeline(name, IMAGE, site, params, folder / f"{name}.yaml")
    return folder


@pytest.fixture
def server(monkeypatch):
    with kfp_server() as (endpoint, store):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", endpoint)
        monkeypatch.setenv("CYTOLOOP_GIT_COMMIT", COMMIT)
        monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH", raising=False)
        yield store


@pytest.fixture
def run(packages, capsys):
    """The command line in this process: its exit code, standard output and errors."""

    def run(*words: str):
        code = submit.main([word.replace("{package}", str(packages / "training.yaml")) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def program(*words: str) -> "subprocess.CompletedProcess[str]":
    """The command line as a person types it, in a process of its own."""
    command = [sys.executable, "-m", "pipelines.submit", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)


# ------------------------------------------------------------------------------------- upload and run


def test_a_version_is_uploaded_once(server, run):
    for _ in range(2):
        code, out, err = run("upload", "{package}")
        assert (code, err) == (0, "")
        assert out.startswith(f"version training-{COMMIT[:12]}-")
    (version,) = server.versions
    assert version["tags"] == {"git_commit": COMMIT, "image": IMAGE[-63:]}
    assert [pipeline["display_name"] for pipeline in server.pipelines] == ["training"]
    assert server.asked.count("POST /apis/v2beta1/pipelines/upload_version") == 1


def test_a_run_is_told_everything_and_says_where_it_comes_from(server, run):
    data = ["--data-revision", "v1.2", "--data-hash", "0a1b.dir"]
    code, out, _ = run("run", "{package}", "--set", "train.learning_rate=0.001", "--name", "first", *data)
    assert code == 0
    assert "run run-0\n" in out
    assert "/#/runs/details/run-0" in out
    (made,) = server.runs
    arguments, (version,) = made["runtime_config"]["parameters"], server.versions
    facts = version["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    changed = {name for name in facts if facts[name].get("defaultValue") != arguments[name]}
    assert changed == {"train_params", "data_revision", "data_hash"}
    assert json.loads(arguments["train_params"])["learning_rate"] == 0.001
    known = {"git_commit": COMMIT, "image": IMAGE, "data_revision": "v1.2", "data_hash": "0a1b.dir"}
    assert {name: arguments[name] for name in known} == known
    assert made["description"] == " ".join(f"{name}={value}" for name, value in known.items())
    assert (made["display_name"], server.experiments[0]["display_name"]) == ("first", "cytoloop")
    assert made["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]


def test_what_is_wrong_is_told_before_anything_is_sent(server, run):
    for setting, message in {
        "train.lerning_rate=1": "nearest known: learning_rate",
        "train.epochs=few": "train.epochs = 'few'",
        "model.image_width=100": "not divisible",
    }.items():
        code, _, err = run("run", "{package}", "--set", setting)
        assert code == 1
        assert message in err
    code, _, err = run("schedule", "nightly", "{package}", "--cron", "0 3 * * *")
    assert code == 1
    assert "wants six, seconds first" in err
    assert server.asked == []


def test_uncommitted_changes_are_refused_unless_allowed(server, run, monkeypatch):
    monkeypatch.setenv("CYTOLOOP_GIT_COMMIT", f"{COMMIT}-dirty")
    code, _, err = run("run", "{package}")
    assert code == 1
    assert "uncommitted changes" in err
    assert server.asked == []
    code, _, err = run("run", "{package}", "--allow-dirty")
    assert code == 0
    assert err.startswith("note: the work tree has uncommitted changes")
    monkeypatch.setenv("CYTOLOOP_GIT_COMMIT", "c0ffee")
    code, _, err = run("run", "{package}")
    assert (code, f"compiled at {COMMIT}, the work tree is at c0ffee" in err) == (0, True)
    assert server.runs[-1]["runtime_config"]["parameters"]["git_commit"] == COMMIT


def test_another_pipeline_with_parameters_of_its_own(server, run, packages):
    inference = str(packages / "inference.yaml")
    code, _, err = run("run", inference, "--set", "images=s3://a/b")
    assert code == 1
    assert "no value for model_uri, output" in err
    wishes = ["images=s3://a/b", "output=s3://a/masks", "model_uri=models:/segmenter@champion", "overlay=0.3"]
    code, _, err = run("run", inference, *(word for wish in wishes for word in ("--set", wish)))
    assert (code, err) == (0, "")
    assert server.runs[0]["runtime_config"]["parameters"]["overlay"] == 0.3


# ------------------------------------------------------------------------------------ wait and status


def test_waiting_ends_well_when_the_run_has_succeeded(server, run):
    server.states = ["PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    code, out, err = run("run", "{package}", "--wait", "--poll", "0")
    assert (code, err) == (0, "")
    assert re.findall(r"UTC  (\w+)", out) == ["PENDING", "RUNNING", "SUCCEEDED"]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_any_other_end_is_an_error(server, run, state):
    run("run", "{package}")
    server.states = ["RUNNING", "CANCELING", state]
    server.tasks = [
        {"display_name": "ingest", "state": "SUCCEEDED"},
        {"display_name": "train", "state": "FAILED", "error": {"message": "no space left"}},
    ]
    code, out, err = run("wait", "run-0", "--poll", "0", "--limit", "5")
    assert code == 1
    assert out.endswith(f"UTC  {state}\n")
    assert err == f"submit: run run-0 ended {state}; train: no space left\n"


def test_waiting_has_a_limit(server, run):
    run("run", "{package}")
    server.states = ["RUNNING"]
    code, _, err = run("wait", "run-0", "--poll", "0.01", "--limit", "0.05")
    assert code == 1
    assert "is RUNNING after 0.05 s; it goes on" in err


def test_waiting_survives_a_server_that_is_away_for_a_moment(server, run):
    run("run", "{package}")
    server.next_answers = [(503, "text/html", "<html>upstream</html>")] * 4
    code, out, err = run("wait", "run-0", "--poll", "0")
    assert (code, err) == (0, "")
    assert out.count("the server failed (503): a web page") == 4
    server.next_answers = [(503, "text/html", "<html>upstream</html>")] * 5
    assert run("wait", "run-0", "--poll", "0")[0] == 1


def test_status_of_a_run_and_of_the_newest(server, run):
    for name in ("first", "second"):
        run("run", "{package}", "--name", name)
    server.states, server.tasks = ["RUNNING"], [{"display_name": "ingest", "state": "SUCCEEDED"}]
    code, out, _ = run("status", "run-1")
    assert code == 0
    assert out.splitlines()[0] == "second: RUNNING, made 2025-01-02 03:04:05 UTC"
    assert f"git_commit={COMMIT}" in out
    assert "  ingest       SUCCEEDED\n" in out
    code, out, _ = run("status")
    assert [line.split()[-1] for line in out.splitlines()] == ["second", "first"]
    code, _, err = run("status", "run-7")
    assert (code, "refused (404): ResourceNotFoundError: run_id run-7 not found" in err) == (1, True)


# ---------------------------------------------------------------------------------------- schedules


def test_a_schedule_is_pinned_and_never_catches_up(server, run):
    code, out, err = run(*NIGHTLY)
    assert (code, err) == (0, "")
    assert len(re.findall(r"^  \w{3} \d{4}-\d\d-\d\d 03:00:00 UTC$", out, re.MULTILINE)) == 3
    (schedule,) = server.schedules
    assert schedule["no_catchup"] is True
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert (schedule["mode"], schedule["max_concurrency"]) == ("ENABLE", 1)
    reference = schedule["pipeline_version_reference"]
    assert reference["pipeline_version_id"] == server.versions[0]["pipeline_version_id"]
    assert schedule["runtime_config"]["parameters"]["git_commit"] == COMMIT
    assert f"image={IMAGE}" in schedule["description"]


def test_a_schedule_replaces_those_of_its_name(server, run):
    run(*NIGHTLY)
    run("schedule", "weekly", "{package}", "--cron", "0 0 4 * * SUN")
    run(*NIGHTLY[:-1], "0 0 5 * * *", "--max-concurrency", "2")
    crons = {s["display_name"]: s["trigger"]["cron_schedule"]["cron"] for s in server.schedules}
    assert len(server.schedules) == 2
    assert crons == {"weekly": "0 0 4 * * SUN", "nightly": "0 0 5 * * *"}


def test_a_schedule_outlives_a_replacement_that_fails(server, run):
    run(*NIGHTLY)
    (old,) = server.schedules
    server.broken = "POST /apis/v2beta1/recurringruns"
    assert run(*NIGHTLY)[0] == 1
    assert server.schedules == [old]
    server.broken = "DELETE /apis/v2beta1/recurringruns"
    code, _, err = run(*NIGHTLY)
    assert code == 1
    assert f"schedule nightly ({old['recurring_run_id']}) is still there and will run" in err
    assert len(server.schedules) == 2
    server.broken = ""
    assert run(*NIGHTLY)[0] == 0
    assert len(server.schedules) == 1
    assert server.schedules[0] is not old


def test_schedules_are_listed_with_their_next_time_and_deleted_by_name(server, run):
    run(*NIGHTLY)
    server.schedules = [
        {**server.schedules[0], "display_name": f"n{i}", "recurring_run_id": f"s{i}"} for i in range(250)
    ]
    server.schedules[1]["trigger"] = {"periodic_schedule": {"interval_second": "60"}}
    code, out, _ = run("schedules")
    assert code == 0
    assert re.search(r"^n249  0 0 3 \* \* \*  ENABLED  next \w{3} .* 03:00:00 UTC$", out, re.MULTILINE)
    assert "n1  no cron  ENABLED  next time unknown" in out
    code, out, _ = run("unschedule", "n249")
    assert (code, out) == (0, "deleted n249 (s249); its runs go on\n")
    assert len(server.schedules) == 249
    del server.schedules[2:]
    code, _, err = run("unschedule", "n249")
    assert (code, err) == (1, "submit: no schedule n249; there are: n0, n1\n")


# ------------------------------------------------------------------------------- servers in trouble


def one_line(err: str) -> bool:
    return err.startswith("submit: ") and err.count("\n") == 1


def test_a_refused_port():
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = program("schedules", "--endpoint", endpoint)
    message = f"{endpoint}: cannot be reached (Connection refused); is it running, and the address right?"
    assert (done.returncode, done.stderr) == (1, f"submit: {message}\n")


def test_a_silent_port():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = program("schedules", "--endpoint", endpoint, "--timeout", "1")
    assert (done.returncode, one_line(done.stderr)) == (1, True)
    assert "no answer within 1 s" in done.stderr


def test_an_unknown_host_and_no_address(run, monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    code, _, err = run("schedules", "--endpoint", "http://nowhere.invalid")
    assert (code, one_line(err), "cannot be reached" in err) == (1, True, True)
    for words in ([], ["--endpoint", "kubeflow.example"]):
        code, _, err = run("schedules", *words)
        assert (code, one_line(err), "KF_PIPELINES_ENDPOINT" in err) == (1, True, True)
    code, _, err = run("schedules", "--endpoint", "https://me:throw-away@kubeflow.example")
    assert (code, one_line(err), "throw-away" in err) == (1, True, False)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, "text/html", PAGE), "answered with a web page, not with JSON: it asks for a login"),
        ((403, "text/html", PAGE), "not allowed (403): a web page. Give a valid token"),
        ((404, "text/html", PAGE), "refused (404): a web page"),
        ((500, "application/json", '{"error": "no database"}'), "the server failed (500): no database"),
        ((502, "text/plain", ""), "the server failed (502): no message"),
    ],
)
def test_answers_that_are_none(server, run, answer, message):
    server.next_answers = [answer]
    code, _, err = run("schedules")
    assert (code, one_line(err)) == (1, True)
    assert message in err


def test_a_token_is_sent_read_anew_and_never_printed(server, run, tmp_path, monkeypatch):
    server.token, file = "throw-away-1", tmp_path / "token"
    file.write_text("throw-away-0\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    code, out, err = run("schedules")
    assert (code, one_line(err)) == (1, True)
    assert "not allowed (401): Request is unauthenticated. Give a valid token: --token-file" in err
    cluster = Cluster(Access(os.environ["KF_PIPELINES_ENDPOINT"], token_file=file))
    for server.token in ("throw-away-1", "throw-away-2"):  # a cluster renews it
        file.write_text(server.token)
        assert cluster.schedules() == []
        assert run("schedules")[0] == 0
    code, _, missing = run("schedules", "--token-file", str(tmp_path / "none"))
    assert (code, "none: no such file; correct --token-file" in missing) == (1, True)
    assert not re.search("throw-away|do-not-print|Bearer", out + err + missing)


def test_the_program_itself(server, packages):
    server.states = ["RUNNING", "FAILED"]
    wishes = ["--set", "train.epochs=3", "--wait", "--poll", "0"]
    done = program("run", str(packages / "training.yaml"), *wishes)
    assert (done.returncode, done.stderr) == (1, "submit: run run-0 ended FAILED\n")
    assert f"git_commit    {COMMIT}" in done.stdout


# ----------------------------------------------------------------- the stand-in is as strict as the server


def test_the_stand_in_refuses_what_the_server_refuses(server, packages, tmp_path):
    endpoint = os.environ["KF_PIPELINES_ENDPOINT"]
    client, cluster = kfp.Client(host=endpoint, namespace="any"), Cluster(Access(endpoint))
    version = cluster.upload(packages / "inference.yaml", "inference", "inference-1", {})
    wishes = {"images": "s3://a/b", "output": "s3://a/m", "model_uri": "models:/a@champion"}
    cluster.run(Order(version, "good", wishes, "", "cytoloop"))

    def refused(status: int, message: str, function, *words, **named) -> None:
        with pytest.raises(kfp_server_api.ApiException) as refusal:
            function(*words, **named)
        assert (refusal.value.status, message in refusal.value.body) == (status, True)

    pinned = {"experiment_id": "experiment-0", "pipeline_id": version.pipeline_id, "version_id": version.version_id}
    runs = {"job_name": "bad", **pinned}
    refused(400, "not required by pipeline", client.run_pipeline, params={**wishes, "more": 1}, **runs)
    refused(400, "neither default value nor user", client.run_pipeline, params={"images": "s3://a/b"}, **runs)
    refused(400, "requires type STRING", client.run_pipeline, params={**wishes, "images": 1}, **runs)
    refused(404, "version-9", client.run_pipeline, params=wishes, **{**runs, "version_id": "version-9"})
    timed = {"params": wishes, "cron_expression": "0 0 3 * * *", **runs}
    refused(400, "Support 1-10", client.create_recurring_run, max_concurrency=11, **timed)
    refused(400, "not a supported format", client.create_recurring_run, **{**timed, "cron_expression": "3 * *"})
    refused(409, "already exists", client.pipelines.pipeline_service_create_pipeline, pipeline={"name": "inference"})
    upload, package = client.pipeline_uploads.upload_pipeline_version, str(packages / "inference.yaml")
    refused(409, "already exists", upload, package, name="inference-1", pipelineid=version.pipeline_id)
    refused(400, "cannot exceed 127", upload, package, name="n" * 128, pipelineid=version.pipeline_id)
    tags = json.dumps({"image": IMAGE})
    refused(400, "longer than 63", upload, package, name="n", pipelineid=version.pipeline_id, tags=tags)
    (tmp_path / "bad.yaml").write_text("pipelineInfo: {nom: training}\n")
    refused(400, "template format", upload, str(tmp_path / "bad.yaml"), name="n", pipelineid=version.pipeline_id)
    body = {"display_name": "bad", "experiment": "experiment-0"}
    refused(400, "unknown field V2beta1Run.experiment", client.runs.run_service_create_run, run=body)
    assert [made["display_name"] for made in server.runs] == ["good"]
    assert server.schedules == []
