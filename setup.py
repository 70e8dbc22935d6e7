"""Builds the native core as an optional extension: without a compiler the install goes on without it."""

import sys

from setuptools import Extension, setup

extensions = []
if sys.platform == "linux":
    try:
        from Cython.Build import cythonize
    except ImportError:
        pass
    else:
        extensions = cythonize(
            [
                Extension(
                    "multitask._native.core",
                    ["src/multitask/_native/core.pyx"],
                    depends=["src/multitask/_native/lane.h"],
                    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wno-unused-function"],
                    optional=True,
                )
            ],
            compiler_directives={"language_level": 3},
        )

setup(ext_modules=extensions)
