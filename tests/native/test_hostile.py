"""A segment in which a peer writes anything, anywhere: under the C interface (hostile.c), and under the engine (scribbled.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.native import ADDRESS, Builder, run_native, titles

pytestmark = pytest.mark.engine

HOSTILE, SCRIBBLED = (Path(__file__).with_name(f"{name}.c") for name in ("hostile", "scribbled"))
VARIANTS = {"plain": ("-O2",), "address": ("-O1", *ADDRESS)}
# Not under ThreadSanitizer: where a segment is scribbled over, two ports may be handed one slot, and that is no fault of theirs.
variants = pytest.mark.parametrize("variant", ["plain", pytest.param("address", marks=pytest.mark.sanitizer)])


@variants
@pytest.mark.parametrize("title", titles(HOSTILE))
def test_calls_return_and_touch_nothing_outside_the_segment(build: Builder, variant: str, title: str) -> None:
    run_native(build.program(HOSTILE, *VARIANTS[variant]), title, ASAN_OPTIONS="detect_leaks=0")  # it includes client.c


@variants
@pytest.mark.parametrize("seed", range(1, 5))
def test_hostile_words_end_in_an_error_and_never_outside_the_segment(build: Builder, variant: str, seed: int) -> None:
    run_native(build.program(SCRIBBLED, *VARIANTS[variant]), "between", seed, 1000, seconds=110)


@variants
@pytest.mark.parametrize("seed", [1, 2])
def test_a_segment_that_is_scribbled_over_meanwhile_hangs_nobody(build: Builder, variant: str, seed: int) -> None:
    run_native(build.program(SCRIBBLED, *VARIANTS[variant]), "meanwhile", seed, 150, seconds=110)
