"""MLflow under two processes at once, and a registered model loaded by MLflow alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cytoloop import ledger, registry, tracking
from cytoloop.errors import ModelError
from cytoloop.images.codec import LabelCodec
from cytoloop.params import ModelParams
from gated import Bench
from mlflow_store import let_reign, store, write_bundle_stub

__all__ = ["store"]

pytestmark = pytest.mark.slow

START_LINE = """
import json, sys
from pathlib import Path
from cytoloop import ledger, registry, tracking
from cytoloop.params import RegisterParams
from cytoloop.steps.register import register
from gated import Bench, stand_in
from mlflow_store import let_reign
stand_in()
tracking.quiet_mlflow().tracking
print("ready", flush=True)
sys.stdin.readline()
"""


def _environment() -> dict[str, str]:
    """Ours, and the tests' helpers can be imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def _race(*scripts: str) -> list[str]:
    """Run scripts as processes that start their work at the same moment; returns what each printed last."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", START_LINE + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        for script in scripts
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    printed = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * len(scripts)
    return [text.splitlines()[-1] for text in printed]


def test_a_new_database_is_opened_by_two_at_once(store: Path) -> None:
    store.unlink()
    script = "with tracking.start_run('cells', 'a run', {}) as run: print(run.id)"
    ids = _race(script, script)
    client = tracking.open_store()
    experiment = client.get_experiment_by_name("cells").experiment_id
    assert [client.get_run(run_id).info.experiment_id for run_id in ids] == [experiment] * 2
    assert [client.get_run(run_id).info.status for run_id in ids] == ["FINISHED"] * 2


def test_the_alias_goes_to_exactly_one_of_two(store: Path, tmp_path: Path) -> None:
    with tracking.start_run("cells", "a run", {}) as run:
        pass
    for seed in (1, 2):
        digest = write_bundle_stub(tmp_path / str(seed), seed)
        registry.register_version("segmenter", tmp_path / str(seed), run.id, {"model_digest": digest})
    script = "print(json.dumps([let_reign('segmenter', '{}', f'round-{{i}}') for i in range(25)]))"
    ours, theirs = (json.loads(text) for text in _race(script.format(1), script.format(2)))
    assert [a + b for a, b in zip(ours, theirs, strict=True)] == [1] * 25
    for i, won in enumerate(ours):
        holder = registry.current("segmenter", f"round-{i}")
        assert holder is not None
        assert holder.version == ("1" if won else "2")


REGISTER = """
bench = Bench(Path("{folder}"))
{before}
register(*bench.inputs(), *bench.paths({seed}), RegisterParams())
print("done")
"""


def test_of_two_registered_at_once_one_wins_and_the_other_compares_again(store: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.inputs()
    for seed, dice in ((1, 0.6), (2, 0.7)):
        bench.train(seed, dice)
    _race(*(REGISTER.format(folder=tmp_path, seed=seed, before="") for seed in (1, 2)))
    reigning = registry.current("segmenter", "champion")
    assert reigning is not None
    better, worse = bench.receipt(2), bench.receipt(1)
    assert reigning.version == better["version"]
    assert better["decision"] == reigning.tags["decision"] == "promote"
    assert {better["version"], worse["version"]} == {"1", "2"}
    first = [told for told in (better, worse) if told["champion_before"] is None]
    assert len(first) == 1  # whoever was first: the other one was held against it
    last = next(told for told in (better, worse) if told["champion_before"] is not None)
    assert last["champion_before"]["version"] == first[0]["version"]
    assert "improvement" in {c["name"] for c in last["comparisons"]}
    moves = [entry.act.version for entry in ledger.read("segmenter") if entry.act.what == "promote"]
    assert moves == ([reigning.version] if first[0] is better else [worse["version"], reigning.version])
    assert ledger.verify(*ledger.read_with_head("segmenter")) == []


DIES = {
    "before the alias moves": "registry.promote = lambda *_: os.kill(os.getpid(), 9)",
    "after the act is written": """
append = ledger.Book.append
def append_and_die(book, act):
    append(book, act)
    if act.what == "promote":
        os.kill(os.getpid(), 9)
ledger.Book.append = append_and_die
""",
    "before a version is there": "registry.register_version = lambda *_: os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("place", DIES)
def test_a_registration_killed_on_its_way_is_finished_by_the_next(store: Path, tmp_path: Path, place: str) -> None:
    bench = Bench(tmp_path)
    bench.inputs()
    bench.train(1, 0.6)
    script = START_LINE + REGISTER.format(folder=tmp_path, seed=1, before=f"import os\n{DIES[place]}")
    killed = subprocess.run([sys.executable, "-c", script], input="go\n", env=_environment(), text=True)
    assert killed.returncode == -signal.SIGKILL
    assert registry.current("segmenter", "champion") is None
    _race(REGISTER.format(folder=tmp_path, seed=1, before=""))
    reigning = registry.current("segmenter", "champion")
    assert reigning is not None
    assert reigning.version == "1"
    assert len(registry.versions("segmenter")) == 1
    assert bench.receipt(1)["decision"] == "promote"
    acts = ledger.read("segmenter")
    assert [entry.act.what for entry in acts] == ["register", "promote"]
    assert ledger.verify(*ledger.read_with_head("segmenter")) == []


def test_a_registered_model_is_served_by_mlflow(store: Path, tmp_path: Path) -> None:
    from cytoloop.model.architectures import build
    from cytoloop.model.bundle import Description, write_bundle
    from cytoloop.model.predict import Predictor

    model_params = ModelParams(
        num_classes=2, image_width=32, image_height=32, base_filters=2, base_kernels=3, num_layers=2
    )
    classes = [{"name": "background", "color": [0, 0, 0]}, {"name": "cell", "color": [255, 0, 0]}]
    (tmp_path / "model").mkdir()
    description = Description(model_params, LabelCodec.from_json(classes), 0.5, 0, {})
    digest = write_bundle(tmp_path / "model", build(model_params), description)
    with tracking.start_run("cells", "a run", {}) as run:
        pass
    registry.register_version("segmenter", tmp_path / "model", run.id, {"model_digest": digest})
    let_reign("segmenter", "1")

    pictures_N = np.random.default_rng(0).integers(0, 256, (3, 40, 24, 3), np.uint8)
    served = tracking.quiet_mlflow().pyfunc.load_model("models:/segmenter@champion")
    ids_NHW = served.predict(pictures_N)
    expected = [answer.ids_HW for answer in Predictor.load(tmp_path / "model").predict(list(pictures_N))]
    assert ids_NHW.dtype == np.uint8
    np.testing.assert_array_equal(ids_NHW, np.stack(expected))
    assert served.predict(pictures_N[:0]).shape == (0, 40, 24)
    with pytest.raises(Exception, match=r"incompatible|schema"):
        served.predict(pictures_N.astype(np.float64))

    arrays = registry.fetch("models:/segmenter@champion", tmp_path / "fetched") / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError):
        Predictor.load(arrays.parent)
