"""A C program produces, Python consumes: blocks of samples arrive as NumPy arrays, without a copy and without parsing.

The C sources of shmq come with the Python package; a C program compiles them in and needs no other library.
"""

import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import shmq

BLOCKS, SAMPLES, CHANNELS = 1000, 1000, 4


def build(folder):
    sources = Path(shmq.get_include())
    program = Path(folder, "producer")
    command = ["cc", "-std=c11", "-O2", f"-I{sources}", Path(__file__).with_name("producer.c"), sources / "shmq.c"]
    subprocess.run([*command, "-o", program, "-lrt", "-lpthread"], check=True)
    return program


def main():
    with tempfile.TemporaryDirectory() as folder, shmq.Queue(slots=64, slot_size=SAMPLES * CHANNELS * 4) as blocks:
        producer = subprocess.Popen([build(folder), blocks.name])
        started = time.perf_counter()
        channels = np.arange(1, CHANNELS + 1, dtype="f4")
        for number in range(BLOCKS):
            with blocks.receive(timeout=30) as lease:
                samples = lease.array
                assert samples.dtype == np.float32 and samples.shape == (SAMPLES, CHANNELS)
                times = np.arange(number * SAMPLES, (number + 1) * SAMPLES, dtype="f4")
                assert (samples == np.outer(times, channels)).all()
        seconds = time.perf_counter() - started
        assert producer.wait(timeout=30) == 0

    rate = BLOCKS * SAMPLES * CHANNELS / seconds
    print(f"{BLOCKS} blocks of {SAMPLES} × {CHANNELS} samples from C, every value checked: {rate:,.0f} samples/s")


if __name__ == "__main__":
    main()
