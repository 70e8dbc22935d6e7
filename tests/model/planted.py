"""What every model's test does with its planted mistakes."""

from __future__ import annotations

import re

import pytest

from .checker import Model, Violation, explore


def must_be_found(model: Model, symptom: str, limit: int = 300_000) -> None:
    """The checker finds a story whose end matches *symptom*: it is not fooled, and for the right reason."""
    with pytest.raises(Violation) as story:
        explore(model, limit)
    assert re.search(symptom, str(story.value).splitlines()[0]), story.value
