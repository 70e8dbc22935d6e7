"""Builds the native core as an optional extension: where it cannot be built the install goes on without it.

Needed are Linux, a C compiler and Python's headers; Cython comes with the build, a `core.c` that already lies
beside `core.pyx` serves when it is missing. With ``MULTITASK_REQUIRE_NATIVE=1`` a failure is an error instead,
for those who build wheels.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/multitask/_native")
REQUIRED = os.environ.get("MULTITASK_REQUIRE_NATIVE", "0") not in ("", "0")


def native_core(source: Path) -> Extension:
    return Extension(
        "multitask._native.core",
        [source.as_posix()],
        depends=sorted(path.as_posix() for pattern in ("*.h", "*.pxd", "*.pxi") for path in NATIVE.glob(pattern)),
        include_dirs=[NATIVE.as_posix()],
        extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wno-unused-function"],
        optional=not REQUIRED,
    )


def extensions() -> list[Extension]:
    if sys.platform != "linux":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        ready = NATIVE / "core.c"
        if REQUIRED and not ready.exists():
            raise
        return [native_core(ready)] if ready.exists() else []
    built: list[Extension] = cythonize(
        [native_core(NATIVE / "core.pyx")], compiler_directives={"language_level": 3}, include_path=["src"]
    )
    for extension in built:
        extension.optional = not REQUIRED  # cythonize makes new ones and forgets it
    return built


setup(ext_modules=extensions())
