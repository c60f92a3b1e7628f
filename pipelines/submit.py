"""Compiled pipelines on a cluster: uploaded, run, waited for, scheduled.

python -m pipelines.submit run build/training.yaml --set train.learning_rate=0.001 --wait
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.errors import CytoloopError, ParamsError, SubmissionError
from cytoloop.provenance import git_commit
from pipelines.arguments import Package, Told, Wishes, instruct, read_package
from pipelines.cron import Cron, next_times

if TYPE_CHECKING:
    from pipelines.client import Cluster, Order, Version

Command = Callable[[argparse.Namespace], None]
IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where a cluster puts a pod's token for Kubeflow Pipelines."""


def main(words: Sequence[str]) -> int:
    """Parse and do; returns the exit code. An error made for people is printed without a traceback."""
    parsed = _parser().parse_args(words)
    try:
        parsed.command(parsed)
    except CytoloopError as error:
        print(f"submit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("submit: interrupted; what runs in the cluster goes on", file=sys.stderr)
        return 130
    return 0


# ------------------------------------------------------------------------------------- the commands


def _upload(parsed: argparse.Namespace) -> None:
    package = read_package(parsed.package)
    _upload_version(_cluster(parsed), package, _commit(package, parsed.allow_dirty))


def _run(parsed: argparse.Namespace) -> None:
    package, told = _prepare(parsed)
    cluster = _cluster(parsed)
    run_id = cluster.run(_order(cluster, parsed, package, told))
    print(f"run {run_id}")
    _print_link(parsed, f"runs/details/{run_id}")
    if parsed.wait:
        cluster.wait(run_id, parsed.limit, parsed.poll, _print_state)


def _wait(parsed: argparse.Namespace) -> None:
    _cluster(parsed).wait(parsed.run, parsed.limit, parsed.poll, _print_state)


def _status(parsed: argparse.Namespace) -> None:
    cluster = _cluster(parsed)
    if parsed.run is None:
        for run in cluster.newest(10):
            print(f"{run.run_id}  {run.state or 'PENDING':9}  {_moment(run.created_at)}  {run.display_name}")
        return
    run = cluster.get(parsed.run)
    print(f"{run.display_name}: {run.state or 'PENDING'}, made {_moment(run.created_at)}")
    print(f"  {run.description or 'no provenance'}")
    for task in (run.run_details.task_details if run.run_details else None) or []:
        print(f"  {task.display_name:12} {task.state or 'PENDING'}")


def _schedule(parsed: argparse.Namespace) -> None:
    cron = Cron.parse(parsed.cron)
    times = next_times(cron, 3, datetime.now(UTC))
    package, told = _prepare(parsed)
    cluster = _cluster(parsed)
    schedule_id = cluster.schedule(_order(cluster, parsed, package, told), cron.text, parsed.max_concurrency)
    print(f"schedule {parsed.name} ({schedule_id}), {cron.text}; next:")
    for moment in times:
        print(f"  {moment}")


def _schedules(parsed: argparse.Namespace) -> None:
    for schedule in _cluster(parsed).schedules():
        text = schedule.trigger.cron_schedule.cron if schedule.trigger and schedule.trigger.cron_schedule else ""
        print(f"{schedule.display_name}  {text or 'no cron'}  {schedule.status or schedule.mode}  {_coming(text)}")
        print(f"  {schedule.recurring_run_id}  {schedule.description or 'no provenance'}")


def _unschedule(parsed: argparse.Namespace) -> None:
    cluster = _cluster(parsed)
    found = cluster.schedules(parsed.name)
    if not found:
        names = ", ".join(sorted({str(schedule.display_name) for schedule in cluster.schedules()})) or "none"
        raise SubmissionError(f"no schedule {parsed.name}; there are: {names}")
    for schedule in found:
        cluster.delete_schedule(schedule)
        print(f"deleted {schedule.display_name} ({schedule.recurring_run_id}); its runs go on")


# ---------------------------------------------------------------------------------------- their parts


def _cluster(parsed: argparse.Namespace) -> "Cluster":
    from pipelines.client import Access, Cluster  # importing kfp takes a second

    token = parsed.token_file or (IN_CLUSTER_TOKEN if IN_CLUSTER_TOKEN.is_file() else None)
    return Cluster(Access(parsed.endpoint, parsed.namespace, token, parsed.ca_file, parsed.timeout))


def _prepare(parsed: argparse.Namespace) -> tuple[Package, Told]:
    """All that can be wrong on this side is found here, before the cluster is asked anything."""
    package = read_package(parsed.package)
    wishes = Wishes(parsed.settings, parsed.params, parsed.data_revision, parsed.data_hash)
    told = instruct(package, wishes, _commit(package, parsed.allow_dirty))
    for fact, value in told.provenance.items():
        print(f"{fact:13} {value or 'not known'}")
    return package, told


def _order(cluster: "Cluster", parsed: argparse.Namespace, package: Package, told: Told) -> "Order":
    from pipelines.client import Order

    version = _upload_version(cluster, package, told.provenance["git_commit"])
    description = " ".join(f"{fact}={value}" for fact, value in told.provenance.items() if value)
    return Order(version, parsed.name or version.name, told.arguments, description, parsed.experiment)


def _upload_version(cluster: "Cluster", package: Package, commit: str) -> "Version":
    tags = {"git_commit": commit, "image": package.image}
    version = cluster.upload(package.path, package.pipeline, package.version(commit), tags)
    print(f"version {version.name} of {package.pipeline} ({version.version_id})")
    return version


def _commit(package: Package, allow_dirty: bool) -> str:
    """The commit that the run will name: that of compiling, else the work tree's."""
    here = git_commit()
    commit = str(package.defaults.get("git_commit") or here)
    if commit.removesuffix("-dirty") != here.removesuffix("-dirty") != "unknown":
        print(f"note: {package.path} was compiled at {commit}, the work tree is at {here}", file=sys.stderr)
    doubts = [
        *([f"{package.path} was compiled from uncommitted changes ({commit})"] if commit.endswith("-dirty") else []),
        *(["the work tree has uncommitted changes"] if here.endswith("-dirty") else []),
        *(["no git commit is known; set CYTOLOOP_GIT_COMMIT"] if commit == "unknown" else []),
    ]
    if doubts and not allow_dirty:
        raise SubmissionError(
            f"{'; '.join(doubts)}: nobody could tell later what ran. Commit and compile, or give --allow-dirty"
        )
    for doubt in doubts:
        print(f"note: {doubt}", file=sys.stderr)
    return commit


def _print_state(state: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} UTC  {state}", flush=True)


def _print_link(parsed: argparse.Namespace, page: str) -> None:
    print(f"{os.environ.get('KF_PIPELINES_UI_ENDPOINT', parsed.endpoint).rstrip('/')}/#/{page}")


def _moment(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if when else "-"


def _coming(cron: str) -> str:
    """The next time of somebody's schedule, whatever it is."""
    try:
        return f"next {next_times(Cron.parse(cron), 1, datetime.now(UTC))[0]}"
    except ParamsError:
        return "next time unknown: not a cron of six fields"


# ---------------------------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipelines.submit", description="Compiled pipelines on a cluster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upload = _add(commands, "upload", "send a compiled pipeline, as a version that never changes", _upload)
    _takes_package(upload)
    run = _add(commands, "run", "upload it if need be, and start it", _run)
    _takes_package(run)
    _takes_wishes(run)
    run.add_argument("--name", help="what the run is called (the version)")
    run.add_argument("--wait", action="store_true", help="wait until it has succeeded, as `wait` does")
    wait = _add(commands, "wait", "wait for a run; the exit code is 0 only when it has succeeded", _wait)
    wait.add_argument("run", metavar="RUN", help="id of the run")
    for waiting in (run, wait):
        waiting.add_argument("--limit", type=float, default=86400, help="how long at most, seconds (86400)")
        waiting.add_argument("--poll", type=float, default=15, help="between two questions, seconds (15)")
    status = _add(commands, "status", "the state of a run and its steps; without one, the ten newest runs", _status)
    status.add_argument("run", metavar="RUN", nargs="?", help="id of a run")
    _add_scheduling(commands)
    return parser


def _add_scheduling(commands: Any) -> None:
    schedule = _add(commands, "schedule", "upload it if need be, and run it by a schedule", _schedule)
    schedule.add_argument("name", help="name of the schedule; one of that name is replaced")
    _takes_package(schedule)
    schedule.add_argument("--cron", required=True, help="six fields, seconds first, UTC: '0 0 3 * * MON'")
    schedule.add_argument(
        "--max-concurrency", type=int, default=1, choices=range(1, 11), metavar="N", help="runs at once, 1 to 10 (1)"
    )
    _takes_wishes(schedule)
    _add(commands, "schedules", "all schedules with their next time", _schedules)
    unschedule = _add(commands, "unschedule", "delete a schedule", _unschedule)
    unschedule.add_argument("name", help="name of the schedule")


def _add(commands: Any, name: str, text: str, command: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    environ = os.environ
    parser.add_argument(
        "--endpoint", default=environ.get("KF_PIPELINES_ENDPOINT", ""), help="the API's address (KF_PIPELINES_ENDPOINT)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        default=environ.get("KF_PIPELINES_SA_TOKEN_PATH"),
        help="file with the token (KF_PIPELINES_SA_TOKEN_PATH, or a pod's own)",
    )
    parser.add_argument("--ca-file", type=Path, help="certificate of the authority that the server's is signed by")
    parser.add_argument("--namespace", default="", help="of a deployment with several users")
    parser.add_argument("--timeout", type=int, default=30, help="seconds for each answer (30)")
    return parser


def _takes_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, help="compiled pipeline, as build/training.yaml")
    parser.add_argument("--allow-dirty", action="store_true", help="also with changes that no commit has")


def _takes_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="train.learning_rate=0.001"
    )
    parser.add_argument("--params", type=Path, help="params file, instead of the one that was compiled in")
    parser.add_argument("--data-revision", default="", help="revision of the data in its own repository")
    parser.add_argument("--data-hash", default="", help="DVC's hash of the data; known where its address has it")
    parser.add_argument("--experiment", default="cytoloop", help="the cluster's group of runs (cytoloop)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
