"""A site file: what a cluster is like, and what each step asks of it. Read when a pipeline is compiled."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cytoloop.door import STEPS
from cytoloop.errors import ParamsError
from cytoloop.params import explained, read_yaml

COMPONENTS = (*STEPS, "due", "predict")
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Variables = dict[Name, tuple[str, ...]]


class Section(BaseModel):
    """A frozen section; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accelerator(Section):
    """Graphics processors that a step asks for."""

    type: str = Field("nvidia.com/gpu", description="resource name of the device plug-in")
    count: int = Field(1, ge=1, description="processors for one pod")


class Toleration(Section):
    """A taint of nodes that a step's pod puts up with."""

    key: str = Field(description="key of the taint")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="how the value is compared")
    value: str | None = Field(None, description="value of the taint; none with Exists")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("NoSchedule", description="of the taint")


class Retry(Section):
    """What happens when a step's pod fails: its node was taken away, or it ran out of memory."""

    times: int = Field(0, ge=0, le=10, description="further attempts")
    wait: int = Field(30, ge=0, description="before the first of them, seconds")
    factor: float = Field(2, ge=1, description="on the wait from one to the next")
    longest_wait: int = Field(600, ge=0, description="seconds")


class Place(Section):
    """What a step asks of the cluster."""

    cpu_request: float = Field(1, gt=0, description="processors that are kept for it")
    cpu_limit: float = Field(2, gt=0, description="processors that it may use")
    memory_request: float = Field(2, gt=0, description="GiB that are kept for it")
    memory_limit: float = Field(4, gt=0, description="GiB above which it is killed")
    shared_memory: float = Field(0, ge=0, description="size of /dev/shm, GiB, part of its memory; 0: the node's own")
    scratch: float = Field(10, gt=0, description="size of /tmp, where unfinished work lies, GiB")
    work_claim: Name | None = Field(
        None, description="volume claim for unfinished work, so that a retry goes on where it stopped; null: /tmp"
    )
    accelerator: Accelerator | None = Field(None, description="null: none")
    node_selector: dict[str, str] = Field({}, description="labels that its node must have")
    tolerations: tuple[Toleration, ...] = Field((), description="taints that its node may have")
    timeout: int = Field(3600, ge=60, description="seconds until it is stopped, pulling of the image included")
    retry: Retry = Field(Retry(), description="further attempts")
    secrets: Variables = Field({}, description="secret -> its keys, which become environment variables")
    config_maps: Variables = Field({}, description="config map -> its keys, likewise")

    @model_validator(mode="after")
    def _limits_are_not_below_requests(self) -> "Place":
        for what in ("cpu", "memory"):
            asked, limit = getattr(self, f"{what}_request"), getattr(self, f"{what}_limit")
            if limit < asked:
                raise ValueError(
                    f"{what}_limit = {limit:g} is below {what}_request = {asked:g}; allowed: at least that"
                )
        return self


class Site(Section):
    """The whole of a site file."""

    namespace: Name = Field("kubeflow", description="where the pipelines are: the namespace of their manifests")
    tune_workers: int = Field(1, ge=1, le=16, description="pods that search at once; above 1 they need a study storage")
    predict_workers: int = Field(1, ge=1, le=16, description="pods that predict at once")
    run_timeout: int = Field(86400, ge=60, description="seconds until a whole run is stopped")
    keep_finished: int = Field(604800, ge=0, description="seconds for which a finished run's pods are kept")
    user: int = Field(10001, ge=1, description="numeric user that the pods run as")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field("IfNotPresent", description="of all pods")
    image_pull_secrets: tuple[Name, ...] = Field((), description="secrets for the image's registry")
    defaults: Place = Field(Place(), description="what every step asks for, where `steps` does not say otherwise")
    steps: dict[str, Place] = Field({}, description="what single steps ask for; a key not given is the default's")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_defaults(cls, tree: Any) -> Any:
        """A step's keys over those of `defaults`."""
        if not (isinstance(tree, dict) and isinstance(tree.get("steps", {}), dict)):
            return tree
        defaults = tree.get("defaults") or {}
        steps = {
            name: {**defaults, **own} if isinstance(own, dict) and isinstance(defaults, dict) else own
            for name, own in (tree.get("steps") or {}).items()
        }
        return {**tree, "steps": steps}

    @model_validator(mode="after")
    def _names_steps(self) -> "Site":
        strangers = sorted(self.steps.keys() - set(COMPONENTS))
        if strangers:
            raise ValueError(f"steps.{strangers[0]}: no such step; allowed: {', '.join(COMPONENTS)}")
        return self

    def place(self, step: str) -> Place:
        """What a step asks for."""
        return self.steps.get(step, self.defaults)


def load_site(path: Path) -> Site:
    """Read and check a site file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds something that is not allowed; the message has a
            line for each problem, with its key.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such site file; infra/sites/ has an example")
    try:
        return Site.model_validate(read_yaml(path, "site file") or {})
    except ValidationError as error:
        raise explained(error, str(path)) from None
