"""Composed blood smears: cells drawn or cropped, strewn and affixed, with their truth.

Several processes can share the work: `make_cells` and `make_bank` once, then `compose_picture` for
any k.
"""

from cytoloop.smear.bank import cell_facts, make_bank, make_cells
from cytoloop.smear.compose import SmearPicture, compose_picture, compose_smears
from cytoloop.smear.protocol import Protocol, read_protocol

__all__ = [
    "Protocol",
    "SmearPicture",
    "cell_facts",
    "compose_picture",
    "compose_smears",
    "make_bank",
    "make_cells",
    "read_protocol",
]
