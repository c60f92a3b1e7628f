"""Composed blood smears: cells drawn or cropped, strewn and affixed, with their truth."""

from cytoloop.smear.compose import SmearPicture, Smears
from cytoloop.smear.protocol import Protocol, read_protocol

__all__ = ["Protocol", "SmearPicture", "Smears", "read_protocol"]
