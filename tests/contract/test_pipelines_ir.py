"""The compiled pipelines: their graph, their place in a cluster, and the subset of KFP that they stay in."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from cytoloop.door import STEPS, interface
from cytoloop.errors import ParamsError
from cytoloop.params import Params, load_params, sections_from_json
from pipelines.compile import PIPELINES, check_image, compile_pipeline, main, write_manifests
from pipelines.portable import problems
from pipelines.site import load_site

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/cytoloop:4f2c91e"
EXAMPLE = load_site(ROOT / "infra/sites/example.yaml")
LARGEST = 100_000
"""Bytes of a compiled pipeline: some way below what an API server takes."""

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def compiled(params: Params, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tree, Tree]]:
    """Each pipeline's IR and what it tells Kubernetes."""
    folder = tmp_path_factory.mktemp("compiled")
    for name in PIPELINES:
        compile_pipeline(name, IMAGE, EXAMPLE, params, folder / f"{name}.yaml")
        assert (folder / f"{name}.yaml").stat().st_size < LARGEST
    assert sorted(path.stem for path in folder.iterdir()) == sorted(PIPELINES)
    return {name: tuple(yaml.safe_load_all((folder / f"{name}.yaml").read_text())) for name in PIPELINES}


def dags(spec: Tree) -> dict[str, Tree]:
    """All graphs of a pipeline, the nested ones too."""
    components = {"root": spec["root"], **spec["components"]}
    return {name: component["dag"]["tasks"] for name, component in components.items() if "dag" in component}


def step_of(executor: str) -> str:
    return re.sub(r"^exec-|-\d+$", "", executor)


# ------------------------------------------------------------------------------------------ the graphs


@pytest.mark.parametrize("name", PIPELINES)
def test_it_stays_in_the_portable_subset(name: str, compiled: dict[str, tuple[Tree, Tree]]) -> None:
    assert problems(compiled[name][0]) == []


def test_every_recipe_compiles_within_the_subset(tmp_path: Path) -> None:
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        compile_pipeline("retraining", IMAGE, EXAMPLE, load_params(recipe), tmp_path / "retraining.yaml")
        assert (tmp_path / "retraining.yaml").stat().st_size < LARGEST


def test_the_training_waits_for_what_it_reads_and_no_more(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    tasks = compiled["training"][0]["root"]["dag"]["tasks"]
    assert set(tasks) == {*STEPS, "tune-workers"}
    writer = {name: step for step in STEPS for name in interface(step).outputs}
    for step in STEPS:
        expected = {writer[name] for name in interface(step).inputs} | ({"tune-workers"} if step == "tune" else set())
        assert set(tasks[step].get("dependentTasks", [])) == expected


def test_infer_runs_beside_register(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    tasks = compiled["training"][0]["root"]["dag"]["tasks"]
    assert not {"register", "evaluate"} & set(tasks["infer"]["dependentTasks"])
    assert "infer" not in tasks["register"]["dependentTasks"]


def test_tune_works_in_parallel_and_once_more_at_the_end(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    graphs = dags(compiled["training"][0])
    (loop,) = graphs["comp-tune-workers"].values()
    assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2, 3]"
    assert loop["iteratorPolicy"]["parallelismLimit"] == EXAMPLE.tune_workers == 4
    (worker,) = graphs[loop["componentRef"]["name"]].values()
    assert "enableCache" not in worker["cachingOptions"]
    assert worker["inputs"]["parameters"].keys() == graphs["root"]["tune"]["inputs"]["parameters"].keys()


def test_one_worker_is_one_plain_tune(params: Params, tmp_path: Path) -> None:
    alone = EXAMPLE.model_copy(update={"tune_workers": 1})
    compile_pipeline("training", IMAGE, alone, params, tmp_path / "training.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "training.yaml").read_text()))
    assert set(spec["root"]["dag"]["tasks"]) == set(STEPS)


def test_the_retraining_is_the_training_under_a_condition(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    training, retraining = (dags(compiled[name][0]) for name in ("training", "retraining"))
    assert set(retraining["root"]) == {"ingest", "validate", "due", "condition-1"}
    assert "enableCache" not in retraining["root"]["due"]["cachingOptions"]
    inside = retraining["comp-condition-1"]
    assert set(inside) == set(training["root"]) - {"ingest", "validate"}
    assert retraining["root"]["condition-1"]["triggerPolicy"]["condition"].endswith("== true")
    for task in inside:
        artifacts = training["root"][task]["inputs"]["artifacts"]
        assert inside[task]["inputs"]["artifacts"].keys() == artifacts.keys()


def test_the_inference_loops_over_shard_numbers(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    (loop,) = compiled["inference"][0]["root"]["dag"]["tasks"].values()
    assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2, 3]"
    (predict,) = dags(compiled["inference"][0])[loop["componentRef"]["name"]].values()
    assert predict["inputs"]["parameters"]["shards"]["runtimeValue"]["constant"] == EXAMPLE.predict_workers


@pytest.mark.parametrize("name", ["training", "retraining"])
def test_params_are_compiled_in_as_defaults(name: str, compiled: dict[str, tuple[Tree, Tree]], params: Params) -> None:
    parameters = compiled[name][0]["root"]["inputDefinitions"]["parameters"]
    defaults = {key: parameter["defaultValue"] for key, parameter in parameters.items()}
    assert defaults["image"] == IMAGE
    assert (defaults["data_revision"], defaults["data_hash"]) == ("", "")
    assert re.match(r"[0-9a-f]{40}|unknown", defaults["git_commit"])
    sections = {key.removesuffix("_params"): text for key, text in defaults.items() if key.endswith("_params")}
    of_steps = {section for step in STEPS for section in interface(step).sections}
    assert set(sections) == of_steps | ({"retrain"} if name == "retraining" else set())
    told = sections_from_json(sections, "test")
    assert all(told.section(section) == params.section(section) for section in sections)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_run_carries_its_provenance(name: str, compiled: dict[str, tuple[Tree, Tree]]) -> None:
    parameters = compiled[name][0]["root"]["inputDefinitions"]["parameters"]
    assert parameters.keys() >= {"git_commit", "image", "data_revision", "data_hash"}


def test_compiling_again_gives_the_same_bytes(params: Params, tmp_path: Path) -> None:
    for path in (tmp_path / "one.yaml", tmp_path / "two.yaml"):
        compile_pipeline("retraining", IMAGE, EXAMPLE, params, path)
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()


# ------------------------------------------------------------------------------- the place in a cluster


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pod_has_image_limits_time_and_no_root(name: str, compiled: dict[str, tuple[Tree, Tree]]) -> None:
    spec, platform = compiled[name]
    containers = {key: it["container"] for key, it in spec["deploymentSpec"]["executors"].items()}
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert containers.keys() == pods.keys()
    for key, container in containers.items():
        place = EXAMPLE.place(step_of(key))
        assert container["image"] == IMAGE
        assert "pip install" not in " ".join(container["command"])
        assert container["resources"]["resourceMemoryLimit"] == f"{place.memory_limit:g}Gi"
        assert container["resources"]["resourceCpuRequest"] == f"{place.cpu_request:g}"
        assert pods[key]["activeDeadlineSeconds"] == str(place.timeout)
        assert pods[key]["securityContext"]["runAsNonRoot"] is True
        assert {"CYTOLOOP_KFP_RUN_ID"} == {it["name"] for it in pods[key]["fieldPathAsEnv"]}
        secrets = {
            it["secretName"]: [pair["envVar"] for pair in it["keyToEnv"]] for it in pods[key].get("secretAsEnv", [])
        }
        assert secrets == {secret: list(keys) for secret, keys in place.secrets.items()}
    assert platform["platforms"]["kubernetes"]["pipelineConfig"]["activeDeadlineSeconds"] == EXAMPLE.run_timeout


def test_tune_and_train_ask_for_graphics_and_no_other_step_does(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    for spec, platform in compiled.values():
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for key, executor in spec["deploymentSpec"]["executors"].items():
            asks = step_of(key) in ("tune", "train")
            assert ("accelerator" in executor["container"]["resources"]) == asks
            assert ("nodeSelector" in pods[key], "tolerations" in pods[key]) == (asks, asks)
            assert ("/dev/shm" in [mount["mountPath"] for mount in pods[key]["emptyDirMounts"]]) == asks


def test_retries_are_those_of_the_site(compiled: dict[str, tuple[Tree, Tree]]) -> None:
    tasks = compiled["training"][0]["root"]["dag"]["tasks"]
    assert tasks["train"]["retryPolicy"]["maxRetryCount"] == 2
    assert "retryPolicy" not in tasks["validate"]


def test_manifests_are_a_pipeline_and_its_version(params: Params, tmp_path: Path) -> None:
    write_manifests("training", IMAGE, EXAMPLE, params, tmp_path / "training.manifests.yaml")
    pipeline, version = yaml.safe_load_all((tmp_path / "training.manifests.yaml").read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {it["apiVersion"] for it in (pipeline, version)} == {"pipelines.kubeflow.org/v2beta1"}
    assert {it["metadata"]["namespace"] for it in (pipeline, version)} == {"kubeflow"}
    assert version["metadata"]["name"] == "training-4f2c91e"
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "training"
    assert problems(version["spec"]["pipelineSpec"]) == []


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "image",
    ["cytoloop", "cytoloop:latest", "registry.example:5000/cytoloop", "cytoloop:main", "cytoloop:1.2", "cytoloop:py3",
     "cytoloop:4f2c91e-dirty", "cytoloop:defaced", "cytoloop@sha256:4f2c91e", "cytoloop:4f2c91e@sha256:12"],
)  # fmt: skip
def test_an_image_that_may_become_another_is_refused(image: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(image)):
        check_image(image)


@pytest.mark.parametrize(
    "image",
    ["cytoloop:4f2c91e", "registry.example:5000/a/cytoloop:cpu-4f2c91e0d3", "cytoloop:v1.2.0", "cytoloop:1.2.0-rc1",
     f"cytoloop@sha256:{'4f' * 32}", f"cytoloop:latest@sha256:{'4f' * 32}"],
)  # fmt: skip
def test_an_image_that_stays_is_taken(image: str) -> None:
    check_image(image)


def test_the_command_writes_all_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, params = str(ROOT / "infra/sites/local.yaml"), str(ROOT / "params.yaml")
    told = ["--site", site, "--params", params, "--output", str(tmp_path)]
    assert main(["--image", "cytoloop:latest", *told]) == 1
    assert "the tag latest may move" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["--image", IMAGE, *told, "--manifests"]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{name}{end}" for name in PIPELINES for end in (".yaml", ".manifests.yaml")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: {trian: {}}", "steps.trian: no such step; allowed: ingest,"),
        ("tune_workers: 99", "tune_workers = 99: Input should be less than or equal to 16"),
        ("defaults: {cpu: 3}", "defaults.cpu = 3: unknown key"),
        (
            "steps: {train: {cpu_request: 9}}",
            "steps.train = {'cpu_request': 9}: cpu_limit = 2 is below cpu_request = 9",
        ),
        ("steps: {train: {accelerator: {count: 0}}}", "steps.train.accelerator.count = 0: Input should be greater"),
        ("steps: {train: {secrets: {Bad_Name: [A]}}}", "steps.train.secrets.Bad_Name"),
        ("defaults: {timeout: 1}\ndefaults: {}", "key given twice: defaults"),
        ("- 1", "Input should be a valid dictionary"),
        ("a: [", "is not a site file"),
    ],
)
def test_a_mistake_in_a_site_file_is_told_with_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mistaken.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as refused:
        load_site(path)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_a_step_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("defaults: {timeout: 99, scratch: 5}\nsteps: {train: {scratch: 7}}")
    site = load_site(tmp_path / "site.yaml")
    assert (site.place("train").timeout, site.place("train").scratch) == (99, 7)
    assert (site.place("split").timeout, site.place("split").scratch) == (99, 5)


# ------------------------------------------------- the traps, each by a small pipeline that falls in


@dsl.component
def word() -> str:
    return "a"


@dsl.component
def words() -> list:
    return [{"a": "b"}]


@dsl.component
def use(text: str) -> str:
    return text


@dsl.component
def make(made: dsl.Output[dsl.Artifact]) -> None:
    pass


@dsl.component
def take(artifact: dsl.Input[dsl.Artifact]) -> None:
    pass


def outer_output_in_a_loop() -> None:
    told = word()
    with dsl.ParallelFor([1, 2]):
        use(text=told.output)


def outer_output_in_a_condition_in_a_loop() -> None:
    told = word()
    with dsl.ParallelFor([1, 2]) as item, dsl.If(item == 1):
        use(text=told.output)


def field_of_an_item() -> None:
    with dsl.ParallelFor([{"a": "b"}]) as item:
        use(text=item.a)


def items_of_a_task() -> None:
    with dsl.ParallelFor(words().output) as item:
        use(text=item)


def too_many_workers() -> None:
    with dsl.ParallelFor(list(range(17))):
        word()


def one_of_artifacts() -> dsl.Artifact:
    told = word()
    with dsl.If(told.output == "a"):
        one = make()
    with dsl.Else():
        other = make()
    return dsl.OneOf(one.outputs["made"], other.outputs["made"])


def loop_in_an_exit_handler() -> None:
    with dsl.ExitHandler(word()), dsl.ParallelFor([1, 2]):
        word()


def importer_in_a_loop() -> None:
    with dsl.ParallelFor([1, 2]):
        take(artifact=dsl.importer(artifact_uri="s3://bucket/a", artifact_class=dsl.Artifact).output)


def volume_made() -> None:
    kubernetes.CreatePVC(access_modes=["ReadWriteOnce"], size="1Gi", pvc_name="a")


def nested_values(tree: dict = {"a": 1}) -> None:  # noqa: B006 (the default is what is tested)
    word()


def condition_on_text() -> None:
    with dsl.If(word().output == "a"):
        word()


def placeholder_in_a_default(text: str = "a {{$.b}}") -> None:
    use(text=text)


def placeholder_in_a_constant() -> None:
    use(text=f"{word().output} and more")


def too_large(text: str = "a" * 100_001) -> None:
    use(text=text)


TRAPS = {
    outer_output_in_a_loop: "comes from a task outside the loop",
    outer_output_in_a_condition_in_a_loop: "comes from a task outside the loop",
    field_of_an_item: "is a field of a loop item",
    items_of_a_task: "allowed: 1 to 16 scalars",
    too_many_workers: "allowed: 1 to 16 scalars",
    one_of_artifacts: "one of several artifacts",
    loop_in_an_exit_handler: "a loop in an exit handler",
    importer_in_a_loop: "imports an artifact in a loop",
    volume_made: "makes or deletes a volume",
    nested_values: "is a STRUCT",
    condition_on_text: "the condition",
    placeholder_in_a_default: "read as a placeholder",
    placeholder_in_a_constant: "read as a placeholder",
    too_large: "allowed: 100000",
}


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
@pytest.mark.filterwarnings("ignore")
def test_a_trap_is_seen(trap: Any, tmp_path: Path) -> None:
    compiler.Compiler().compile(dsl.pipeline(name="trap")(trap), str(tmp_path / "trap.yaml"))
    found = problems(next(yaml.safe_load_all((tmp_path / "trap.yaml").read_text())))
    assert [line for line in found if TRAPS[trap] in line], found


def test_params_that_would_not_arrive_are_refused(params: Params, tmp_path: Path) -> None:
    ingest = params.ingest.model_copy(update={"citation": "{{$.inputs}}"})
    with pytest.raises(ParamsError, match="ingest_params"):
        compile_pipeline("training", IMAGE, EXAMPLE, params.model_copy(update={"ingest": ingest}), tmp_path / "a.yaml")
    assert not list(tmp_path.iterdir())
