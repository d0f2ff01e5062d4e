"""A pipeline of three stages: record a signal, compute its spectra, find the loudest tone.

Arrays travel as raw memory, not pickled. A full queue makes the stage before it wait, so that no stage runs away; None
ends the stream.
"""

import multiprocessing

import numpy as np

import shmq

RATE = 8192  # samples a second, one second a chunk: one bin of the spectrum is 1 Hz
MELODY = [262, 294, 330, 349, 392, 440, 494, 523] * 25


def record(chunks):
    noise = np.random.default_rng(seed=1)
    seconds = np.arange(RATE) / RATE
    for tone in MELODY:
        chunks.put(np.sin(2 * np.pi * tone * seconds) + noise.normal(scale=0.5, size=RATE))
    chunks.put(None)


def transform(chunks, spectra):
    while (chunk := chunks.get()) is not None:
        spectra.put(np.abs(np.fft.rfft(chunk)))
    spectra.put(None)


def main():
    with shmq.Queue(slots=16, slot_size=8 * RATE) as chunks, shmq.Queue(slots=16, slot_size=8 * RATE) as spectra:
        stages = [
            multiprocessing.Process(target=record, args=(chunks,), daemon=True),
            multiprocessing.Process(target=transform, args=(chunks, spectra), daemon=True),
        ]
        for stage in stages:
            stage.start()
        heard = []
        while (spectrum := spectra.get(timeout=30)) is not None:
            heard.append(int(spectrum.argmax()))  # the index is the frequency in Hz
        for stage in stages:
            stage.join()

    assert heard == MELODY
    print(f"{len(heard)} chunks of {RATE} samples went through three processes")
    print(f"heard as they were played: {heard[:8]} Hz …")


if __name__ == "__main__":
    main()
