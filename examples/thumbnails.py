"""A folder of images, and their thumbnails: made by a pool of workers, whatever size the images have.

    python thumbnails.py [FOLDER]

Without a folder it makes one, with images of its own. It needs no other package: images are PPM files, which many programs show.
The thumbnails come back through shared memory, without being pickled.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import numpy as np

import shmq

SIDE = 64  # pixels of a thumbnail's longer side


def write(path: Path, image: np.ndarray) -> None:
    height, width, _ = image.shape
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + image.tobytes())


def read(path: Path) -> np.ndarray:
    data = path.read_bytes()
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    if head is None:
        raise ValueError(f"{path.name} is no PPM image")
    return np.frombuffer(data, np.uint8, offset=head.end()).reshape(int(head[2]), int(head[1]), 3)


def shrink(image: np.ndarray) -> np.ndarray:
    """The mean of each block of pixels."""
    step = -(-max(image.shape[:2]) // SIDE)
    height, width = image.shape[0] // step, image.shape[1] // step
    blocks = image[: height * step, : width * step].reshape(height, step, width, step, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def thumbnail(path: Path) -> tuple[str, np.ndarray]:
    return path.name, shrink(read(path))


def paint(folder: Path, count: int) -> None:
    """Images of several sizes: a gradient, in one colour each."""
    for number in range(count):
        height, width = 300 + 40 * (number % 5), 400 + 60 * (number % 4)
        image = np.zeros((height, width, 3), np.uint8)
        image[:, :, number % 3] = np.linspace(0, 255, width).astype(np.uint8)
        write(folder / f"{number:02}.ppm", image)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        if folder == Path(scratch):
            paint(folder, 40)
        (folder / "thumbnails").mkdir(exist_ok=True)
        paths = sorted(folder.glob("*.ppm"))
        with shmq.Executor() as pool:
            for name, image in pool.map(thumbnail, paths, buffersize=32):  # tqdm(pool.map(…), total=len(paths)) shows a bar
                write(folder / "thumbnails" / name, image)
        made = {path.name: read(path) for path in (folder / "thumbnails").glob("*.ppm")}
        shown = sum(image.nbytes for image in made.values())
        print(f"{len(made)} thumbnails of at most {SIDE} pixels, {shown:,} bytes of pixels, from {len(paths)} images")
        return 0 if all(np.array_equal(made[path.name], shrink(read(path))) for path in paths) else 1


if __name__ == "__main__":
    sys.exit(main())
