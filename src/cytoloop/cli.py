"""The command line: the nine steps through the door, and the commands for people.

A step's flags come from its signature: a folder is `--raw`, `--splits`, ...; nothing else is imported
until the command that needs it runs, so that `--help` answers at once.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cytoloop import __version__
from cytoloop.cli_models import add_models
from cytoloop.door import FOLDERS, STEPS, Numbers, interface, run_step
from cytoloop.errors import ArtifactError, CytoloopError
from cytoloop.params import Params, load_params
from cytoloop.provenance import remember_origin

Command = Callable[[argparse.Namespace], None]

CLASSIFIER = Path("models/classifier")

HELP = {
    "ingest": "read a source's pictures and masks into the table `raw`",
    "validate": "judge the table; stop with a list of what is wrong",
    "split": "divide the groups into train, val and test",
    "augment": "write varied copies of the training rows",
    "tune": "search the network's size on train and val",
    "train": "fit the network and write the bundle `model`",
    "evaluate": "score the model on test; write metrics and the HTML report",
    "infer": "write masks for new pictures, or for the first test pictures",
    "register": "record the model in MLflow; move the alias when it passes the gate",
}


def run(arguments: Sequence[str]) -> int:
    """Parse and do; returns the exit code. An error made for people is printed without a traceback."""
    _calm()
    parsed = _parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except CytoloopError as error:
        print(f"cytoloop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cytoloop: interrupted; nothing half-written was left behind", file=sys.stderr)
        return 130
    return 0


def _calm() -> None:
    """Warnings of ours to stderr; TensorFlow's start-up chatter off unless asked for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cytoloop", description="MLOps for microscopy segmentation; research use only.")
    parser.add_argument("--version", action="version", version=f"cytoloop {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for step in STEPS:
        _add_step(commands, step)
    _add_sources(commands)
    _add_smear(commands)
    _add_export(commands)
    _add_augmentations(commands)
    _add_predict(commands)
    _add_retrain(commands)
    _add_model(commands)
    _add_classify(commands)
    _add_recipe(commands)
    add_models(commands)
    _add(commands, "status", "the scores, the registered model and the report of the last run", _status)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, command: Command
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


# ---------------------------------------------------------------------------------------- the steps


def _add_step(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", step: str) -> None:
    parser = _add(commands, step, HELP[step], _step)
    parser.set_defaults(step=step)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    if step == "ingest":
        parser.add_argument("--source", help="folder, zip, s3:// or dvc+s3:// address, instead of ingest.source")
        parser.add_argument("--layout", help="its layout, instead of ingest.layout; see `cytoloop sources`")
    if step == "register":
        parser.add_argument(
            "--resume",
            action="store_true",
            help="after MLflow was away: send all that it missed, of the search and the classifier too, then register",
        )
    for name, folder in FOLDERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=Path, default=Path(folder), help=folder)


def _step(parsed: argparse.Namespace) -> None:
    from cytoloop.workspace import end_with_dvc

    end_with_dvc()
    params = load_params(parsed.params)
    if parsed.step == "ingest":
        params = _with_source(params, parsed.source, parsed.layout)
    remember_origin({"source": params.ingest.source})
    if parsed.step == "register" and parsed.resume:
        from cytoloop.tracking import send, send_search

        send(CLASSIFIER)
        send_search(parsed.best_params)
    face = interface(parsed.step)
    folders = {name: getattr(parsed, name) for name in (*face.inputs, *face.outputs)}
    began = time.monotonic()
    numbers = run_step(parsed.step, folders, params)
    print(f"{parsed.step:>9}  {_line(numbers)}  ({time.monotonic() - began:.1f} s)", flush=True)


def _line(numbers: Numbers) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items())


def _with_source(params: Params, source: str | None, layout: str | None) -> Params:
    given = {name: value for name, value in {"source": source, "layout": layout}.items() if value is not None}
    return params.model_copy(update={"ingest": params.ingest.model_copy(update=given)})


# ------------------------------------------------------------------------------ commands for people


def _add_sources(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _add(commands, "sources", "the layouts that `ingest` reads, and what each expects", _sources)


def _sources(_: argparse.Namespace) -> None:
    from cytoloop.sources import LAYOUTS

    for name in sorted(LAYOUTS):
        layout = LAYOUTS[name]
        licence = layout.licence or "yours: declare ingest.licence and ingest.citation"
        citation = f"    citation: {layout.citation}\n" if layout.citation else ""
        print(f"{name}: {layout.description}\n    licence: {licence}\n{citation}{_indent(layout.expects)}\n")


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip("\n").splitlines())


def _add_smear(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(
        commands, "smear", "compose a dataset of blood smears, as a table; goes on where it was killed", _smear
    )
    parser.add_argument("--train", required=True, type=int, help="pictures composed from the training cells")
    parser.add_argument("--valid", required=True, type=int, help="... from the validation cells")
    parser.add_argument("--test", required=True, type=int, help="... from the test cells")
    parser.add_argument("--output", type=Path, default=Path("data/smear"), help="folder of the table (data/smear)")
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("recipes/default.yaml"),
        help="params file with classes and ingest.smear (recipes/default.yaml)",
    )


def _smear(parsed: argparse.Namespace) -> None:
    from cytoloop.smear_dataset import write

    numbers = write(parsed.output, load_params(parsed.params), parsed.train, parsed.valid, parsed.test)
    print(f"{_line(numbers)} -> {parsed.output}")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "export", "a table as folders of pictures, masks and COCO boxes, for other tools", _export)
    parser.add_argument("--table", type=Path, default=Path(FOLDERS["raw"]), help=f"the table ({FOLDERS['raw']})")
    parser.add_argument("--splits", type=Path, help="folder of its splits; else those that the pictures came with")
    parser.add_argument("--to", required=True, type=Path, help="folder to make")
    parser.add_argument("--masks", choices=("color", "ids"), default="color", help="class colours, or class ids")


def _export(parsed: argparse.Namespace) -> None:
    from cytoloop.export import export

    print(f"{_line(export(parsed.table, parsed.to, parsed.splits, parsed.masks))} -> {parsed.to}")


def _add_augmentations(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "augmentations", "a page that shows every augmentation on one picture", _augmentations)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    parser.add_argument("--table", type=Path, default=Path(FOLDERS["raw"]), help=f"the table ({FOLDERS['raw']})")
    parser.add_argument("--picture", help="id of a picture of the table; else its first")
    parser.add_argument("--output", type=Path, default=Path("reports/augmentations"), help="folder for the page")


def _augmentations(parsed: argparse.Namespace) -> None:
    from cytoloop.artifacts import read_rows
    from cytoloop.images.decode import decode_ids, decode_rgb
    from cytoloop.report.augmentations import PAGE, write_augmentation_page

    params = load_params(parsed.params).augment
    rows = read_rows(parsed.table, None if parsed.picture is None else {parsed.picture}, ["image", "mask"])
    row = next((row for row in rows if row.image and row.mask), None)
    if row is None:
        raise ArtifactError(f"{parsed.table}: has no sound picture {parsed.picture or ''}; ids are in its column id")
    write_augmentation_page(decode_rgb(row.image or b""), decode_ids(row.mask or b""), params, parsed.output)
    print(f"page: {parsed.output / PAGE}")


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "predict", "masks, overlays and a table of areas for pictures", _predict)
    parser.add_argument(
        "--model", required=True, help="a bundle's folder, or models:/NAME@ALIAS, or models:/NAME/VERSION"
    )
    parser.add_argument("--images", required=True, nargs="+", help="pictures, folders of pictures, or one s3:// prefix")
    parser.add_argument("--output", required=True, help="folder for the masks, made if need be, or an s3:// prefix")
    parser.add_argument("--overlay", type=float, default=0.45, help="opacity of the mask in overlays, 0..1 (0.45)")
    parser.add_argument(
        "--profile", type=Path, help="table that gets a row a picture, for `cytoloop retrain`; made if need be"
    )


def _predict(parsed: argparse.Namespace) -> None:
    from cytoloop.predictions import find_pictures, write_predictions
    from cytoloop.sharding import load_bundle, predict_shard

    if any(address.startswith("s3://") for address in (*parsed.images, parsed.output)):
        if parsed.profile is not None:
            raise CytoloopError("--profile: only where pictures and masks are local")
        if len(parsed.images) > 1:
            raise CytoloopError("--images: where S3 is read or written, one prefix or folder at a time")
        numbers = predict_shard(parsed.model, parsed.images[0], parsed.output, 0, 1, parsed.overlay)
    else:
        found = find_pictures([Path(path) for path in parsed.images])
        bundle = load_bundle(parsed.model)
        from cytoloop.model.predict import Predictor

        pictures = ((path.name, path.read_bytes()) for path in found)
        numbers = write_predictions(Predictor(bundle), pictures, Path(parsed.output), parsed.overlay, parsed.profile)
    print(f"{numbers['pictures']:g} pictures -> {parsed.output}")


def _add_retrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "retrain", "train anew in the working folder, where there is a reason to", _retrain)
    why = parser.add_mutually_exclusive_group(required=True)
    why.add_argument("--if-needed", action="store_true", help="new data, drift or age decide, as params.yaml declares")
    why.add_argument("--because", metavar="REASON", help="by hand, and why")


def _retrain(parsed: argparse.Namespace) -> None:
    from cytoloop.retraining import retrain

    if parsed.because is not None and not parsed.because.strip():
        raise CytoloopError("--because: say why, for those who will ask")
    retrain(parsed.because)


def _add_model(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "model", "the architectures, and the network that the params describe", lambda _: None)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add(actions, "list", "the architectures", _model_list)
    summary = _add(actions, "summary", "the network layer by layer", _model_summary)
    summary.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    summary.add_argument("--plot", type=Path, help="write a drawing of the network to this PNG")


def _model_list(_: argparse.Namespace) -> None:
    from cytoloop.model.architectures import NAMES, describe

    for name in NAMES:
        print(f"{name:14} {describe(name)}")


def _model_summary(parsed: argparse.Namespace) -> None:
    from cytoloop.model.architectures import build

    model = load_params(parsed.params).model
    if model.standardize and model.channel_mean is None:  # training measures them; the layers are the same
        ones = (1.0,) * model.image_channels
        model = model.model_copy(update={"channel_mean": ones, "channel_std": ones})
    network = build(model)
    network.summary(line_length=110)
    if parsed.plot:
        from cytoloop.model.drawing import draw_network

        draw_network(network, parsed.plot)
        print(f"drawing: {parsed.plot}")


def _add_classify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "classify", "label whole pictures by a classifier with heat maps", lambda _: None)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    train = _add(actions, "train", "learn the labels of the table's rows and judge on test", _classify_train)
    train.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    for name in ("raw", "splits"):
        train.add_argument(f"--{name}", type=Path, default=Path(FOLDERS[name]), help=FOLDERS[name])
    train.add_argument("--output", type=Path, default=CLASSIFIER, help=f"folder of the classifier ({CLASSIFIER})")
    predict = _add(actions, "predict", "labels and heat maps for pictures", _classify_predict)
    predict.add_argument("images", nargs="+", type=Path, help="pictures, or folders of pictures")
    predict.add_argument("--model", type=Path, default=CLASSIFIER, help=f"folder of the classifier ({CLASSIFIER})")
    predict.add_argument("--output", required=True, type=Path, help="folder for the heat maps; made if need be")
    predict.add_argument("--opacity", type=float, default=0.45, help="opacity of the heat map, 0..1 (0.45)")


def _classify_train(parsed: argparse.Namespace) -> None:
    from cytoloop import classification

    numbers = classification.train(parsed.raw, parsed.splits, parsed.output, load_params(parsed.params))
    print(_line(numbers))
    print(f"page: {parsed.output / 'classification.html'}")


def _classify_predict(parsed: argparse.Namespace) -> None:
    from cytoloop import classification
    from cytoloop.predictions import find_pictures

    numbers = classification.predict(parsed.model, find_pictures(parsed.images), parsed.output, parsed.opacity)
    print(f"{numbers['pictures']:g} pictures -> {parsed.output}")


def _add_recipe(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, "recipe", "complete params files for known datasets", lambda _: None)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add(actions, "list", "the recipes", _recipe_list)
    show = _add(actions, "show", "print a recipe", _recipe_show)
    use = _add(actions, "use", "make a recipe the params.yaml", _recipe_use)
    for action in (show, use):
        action.add_argument("name", help="a name that `recipe list` shows")
    use.add_argument("--source", help="folder, zip or s3:// address of the pictures")
    use.add_argument("--force", action="store_true", help="replace a params.yaml that was edited by hand")


def _recipe_list(_: argparse.Namespace) -> None:
    from cytoloop.recipes import recipes, title

    for name, path in recipes().items():
        print(f"{name:18} {title(path)}")


def _recipe_show(parsed: argparse.Namespace) -> None:
    from cytoloop.recipes import find

    print(find(parsed.name).read_text("utf-8"), end="")


def _recipe_use(parsed: argparse.Namespace) -> None:
    from cytoloop.recipes import use

    print(use(parsed.name, parsed.source, parsed.force))


def _status(_: argparse.Namespace) -> None:
    from cytoloop.status import status

    print(status(Path(FOLDERS["evaluation"]), Path(FOLDERS["registration"])))
