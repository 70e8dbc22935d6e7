"""Running one of CPython's own test cases as a test of ours."""

from __future__ import annotations

import unittest

import pytest


def run_case(case: unittest.TestCase) -> None:
    """Run *case*; what it reports is what our test reports."""
    result = unittest.TestResult()
    case.run(result)
    for _, text in (*result.errors, *result.failures):
        pytest.fail(text)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
