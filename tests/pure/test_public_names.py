"""`import multitask` is lazy, and every public name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import multitask

SOURCE = Path(multitask.__file__)


def test_importing_loads_no_submodule():
    program = "import sys, multitask; print(sorted(name for name in sys.modules if name.startswith('multitask')))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['multitask']"


@pytest.mark.parametrize("name", multitask.__all__)
def test_public_name_is_there_and_documented(name):
    assert getattr(multitask, name).__doc__


def test_every_public_name_is_typed_and_has_a_home():
    typed = SOURCE.read_text().partition("if TYPE_CHECKING:")[2].partition("\nelse:")[0]
    names = set(re.findall(r"\b\w+\b", re.sub(r"from \S+ import", "", typed)))
    assert set(multitask.__all__) == names == set(multitask._HOME)


def test_dir_lists_the_public_names():
    assert set(multitask.__all__) <= set(dir(multitask))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Pol'"):
        multitask.Pol


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert version("multitask") == multitask.__version__


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (each, f"from {module} import {each}")
        for module, each in [
            ("multiprocessing", "get_context"),
            ("multiprocessing", "Lock"),
            ("threading", "Timer"),
            ("concurrent.futures", "wait"),
        ]
    ]
    + [("ThreadPoolExecutor", r"Executor\(kind='thread'\)"), ("Future", "multitask.Task")],
)
def test_a_name_of_the_standard_library_that_is_not_here_says_what_to_write(name, advice):
    with pytest.raises(AttributeError, match=advice):
        getattr(multitask, name)


def test_what_the_standard_library_is_said_to_have_is_there_and_is_missing_here():
    for module, names in multitask._THEIRS.items():
        theirs = __import__(module, fromlist=["*"])
        for name in names.split():
            assert hasattr(theirs, name), name
            assert name not in multitask._HOME, name
    assert not set(multitask._OURS) & set(multitask._HOME)
