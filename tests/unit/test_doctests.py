"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import cytoloop

NAMES = [
    info.name
    for info in pkgutil.walk_packages(cytoloop.__path__, "cytoloop.")
    if not info.name.endswith(("__main__", "serving"))
]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")}).failed == 0
