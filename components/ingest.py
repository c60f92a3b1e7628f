"""ingest: read a source's pictures and masks into the table `raw`."""

from kfp import dsl

from components.step import step


@step
def ingest(
    raw: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    ingest_params: str,
    classes_params: str,
    data_revision: str = "",
    data_hash: str = "",
) -> None:
    """Read a source's pictures and masks into the table `raw`."""
    from cytoloop.door import run_component

    sections = {"ingest": ingest_params, "classes": classes_params}
    origin = {"data_revision": data_revision, "data_hash": data_hash}
    metrics.metadata.update(run_component("ingest", {"raw": raw.path}, sections, origin))
