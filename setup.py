"""Builds the native parts as optional extensions: where they cannot be built the install goes on without them.

Needed are Linux, a C compiler and Python's headers; Cython comes with the build, the `.c` files that already lie
beside the `.pyx` serve when it is missing. With ``MULTITASK_REQUIRE_NATIVE=1`` a failure is an error instead,
for those who build wheels.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/multitask/_native")
REQUIRED = os.environ.get("MULTITASK_REQUIRE_NATIVE", "0") not in ("", "0")


def native(source: Path) -> Extension:
    return Extension(
        f"multitask._native.{source.stem}",
        [source.as_posix()],
        depends=sorted(path.as_posix() for pattern in ("*.h", "*.pxd", "*.pxi") for path in NATIVE.glob(pattern)),
        include_dirs=[NATIVE.as_posix()],
        extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wno-unused-function"],
        optional=not REQUIRED,
    )


def extensions() -> list[Extension]:
    if sys.platform != "linux":
        return []
    sources = sorted(NATIVE.glob("*.pyx"))
    try:
        from Cython.Build import cythonize
    except ImportError:
        ready = [source.with_suffix(".c") for source in sources]
        missing = [source.name for source in ready if not source.exists()]
        if REQUIRED and missing:
            raise
        return [] if missing else [native(source) for source in ready]
    built: list[Extension] = cythonize(
        [native(source) for source in sources], compiler_directives={"language_level": 3}, include_path=["src"]
    )
    for extension in built:
        extension.optional = not REQUIRED  # cythonize makes new ones and forgets it
    return built


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
