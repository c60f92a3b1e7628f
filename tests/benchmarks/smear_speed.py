"""How fast smears are composed and encoded on one core.

    python tests/benchmarks/smear_speed.py [pictures] [repeats]

Prints the seconds that the bank takes and the pictures of 224 x 224 a second (composed, and image,
mask and instances encoded as PNG), median of the repeats, of the wall clock and of the processor.
"""

import sys
import time
from pathlib import Path
from statistics import median

import cv2

import cytoloop.smear
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.images.decode import encode_instances_png, encode_rgb_png
from cytoloop.params import SmearParams
from cytoloop.smear.bank import Bank, make_bank, make_cells
from cytoloop.smear.compose import compose_picture
from cytoloop.smear.protocol import CLASSES, Protocol, read_protocol

PROTOCOL = Path(cytoloop.smear.__file__).with_name("protocol.yaml")
CODEC = LabelCodec(tuple(LabelClass(name, (25 * n, 255 - 25 * n, 128)) for n, name in enumerate(CLASSES)))


def compose_and_encode(protocol: Protocol, params: SmearParams, bank: Bank, pictures: int) -> int:
    """Bytes of all PNGs."""
    size = 0
    for k in range(pictures):
        picture = compose_picture(protocol, params, bank, k)
        size += len(encode_rgb_png(picture.image_HW3))
        size += len(CODEC.encode_png(picture.ids_HW))
        size += len(encode_instances_png(picture.instances_HW))
    return size


def main(pictures: int = 200, repeats: int = 5) -> None:
    cv2.setNumThreads(1)
    protocol, params = read_protocol(PROTOCOL), SmearParams()
    start = time.process_time()
    cells = make_cells(protocol, params)
    drawn = time.process_time()
    bank = make_bank(protocol, params, "train", cells)
    print(f"cells: {drawn - start:.1f} s of processor time, backgrounds: {time.process_time() - drawn:.1f} s")
    size = 0
    wall: list[float] = []
    processor: list[float] = []
    for _ in range(repeats):
        wall_start, processor_start = time.perf_counter(), time.process_time()
        size = compose_and_encode(protocol, params, bank, pictures)
        wall.append(pictures / (time.perf_counter() - wall_start))
        processor.append(pictures / (time.process_time() - processor_start))
    print(f"pictures a second: {median(wall):.0f} (wall clock), {median(processor):.0f} (processor)")
    print(f"bytes a picture: {size // pictures}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
