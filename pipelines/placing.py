"""A task's place in the cluster, as the site file says: kfp's calls, one after another."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from pipelines.site import Place, Site

LABEL_OF_RUN = "metadata.labels['pipeline/runid']"
SCRATCH, SHARED = "/tmp", "/dev/shm"  # noqa: S108 (in a pod)
WORK = "/tmp/work"  # noqa: S108 (likewise; CYTOLOOP_WORK in the config map of the site)


class Placing:
    """Makes tasks of components, each with the image and its place in the cluster."""

    def __init__(self, image: str, site: Site) -> None:
        self.image, self.site = image, site

    def __call__(self, component: Any, told: Mapping[str, Any], **artifacts: Any) -> dsl.PipelineTask:
        """A task of the component in the present graph.

        Args:
            component: the step.
            told: the graph's parameters by name; the component takes those that it has.
            artifacts: its inputs.
        """
        task: dsl.PipelineTask = component(**{**parameters_of(component, told), **artifacts})
        place = self.site.place(component.name)
        task.set_container_image(self.image)
        self._of_site(task)
        _ask_for_resources(task, place)
        _choose_node(task, place)
        _mount(task, place)
        _fill_environment(task, place)
        _limit_time(task, place)
        return task

    @property
    def config(self) -> dsl.PipelineConfig:
        """What holds for a whole run."""
        return dsl.PipelineConfig(
            active_deadline_seconds=self.site.run_timeout, ttl_seconds_after_finished=self.site.keep_finished
        )

    def _of_site(self, task: dsl.PipelineTask) -> None:
        kubernetes.set_image_pull_policy(task, self.site.image_pull_policy)
        kubernetes.set_security_context(task, self.site.user, self.site.user, run_as_non_root=True)
        if self.site.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.site.image_pull_secrets))


def parameters_of(component: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a component takes of a graph's parameters."""
    return {name: told[name] for name in component.component_spec.inputs if name in told}


def _ask_for_resources(task: dsl.PipelineTask, place: Place) -> None:
    task.set_cpu_request(f"{place.cpu_request:g}").set_cpu_limit(f"{place.cpu_limit:g}")
    task.set_memory_request(f"{place.memory_request:g}Gi").set_memory_limit(f"{place.memory_limit:g}Gi")
    if place.accelerator:
        task.set_accelerator_type(place.accelerator.type).set_accelerator_limit(place.accelerator.count)


def _choose_node(task: dsl.PipelineTask, place: Place) -> None:
    for label, value in place.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in place.tolerations:
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value, toleration.effect)


def _mount(task: dsl.PipelineTask, place: Place) -> None:
    kubernetes.empty_dir_mount(task, "scratch", SCRATCH, size_limit=f"{place.scratch:g}Gi")
    if place.work_claim:
        kubernetes.mount_pvc(task, place.work_claim, WORK)
    if place.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", SHARED, medium="Memory", size_limit=f"{place.shared_memory:g}Gi")


def _fill_environment(task: dsl.PipelineTask, place: Place) -> None:
    kubernetes.use_field_path_as_env(task, "CYTOLOOP_KFP_RUN_ID", LABEL_OF_RUN)
    for name, keys in place.secrets.items():
        kubernetes.use_secret_as_env(task, name, {key: key for key in keys})
    for name, keys in place.config_maps.items():
        kubernetes.use_config_map_as_env(task, name, {key: key for key in keys})


def _limit_time(task: dsl.PipelineTask, place: Place) -> None:
    kubernetes.set_timeout(task, place.timeout)
    if place.retry.times:
        retry = place.retry
        task.set_retry(retry.times, f"{retry.wait}s", retry.factor, f"{retry.longest_wait}s")
