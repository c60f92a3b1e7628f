"""A compiled pipeline on this machine, by KFP's own local runner: each step a process, no containers.

python -m pipelines.local build/local/training.yaml work/kfp [parameter=value ...]
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kfp import components, local


def run(compiled: Path, root: Path, arguments: Mapping[str, str]) -> None:
    """Run the very file that is sent to a cluster.

    Args:
        compiled: a pipeline as `pipelines.compile` writes it.
        root: folder for the artifacts: ROOT/RUN/TASK/ARTIFACT.
        arguments: parameters that are to have other values than the compiled ones.

    Raises:
        RuntimeError: a step failed; what it said is printed above.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    pipeline = components.load_component_from_file(str(compiled))
    pipeline(**arguments)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    compiled, root, *pairs = arguments
    try:
        run(Path(compiled), Path(root), dict(pair.split("=", 1) for pair in pairs))
    except RuntimeError as error:
        print(f"{compiled}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
