"""The one extension module; everything else is in pyproject.toml.

Kept as a file because setuptools calls ``ext-modules`` in pyproject.toml experimental, and because the NumPy headers
are found by asking NumPy.
"""

from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

core = Extension(
    "shmq._core",
    ["shmq/_core.pyx", "shmq/_native/engine.c"],
    depends=[*glob("shmq/_native/**/*.[ch]", recursive=True), *glob("shmq/_binding/*.pxi")],
    include_dirs=["shmq/_native", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_22_API_VERSION")],
    extra_compile_args=["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-function"],
    extra_link_args=["-Wl,--strip-debug"],  # six sevenths of it; the names of functions stay, for backtraces and profiles
    libraries=["rt", "pthread"],
)

setup(ext_modules=cythonize([core], language_level=3))
