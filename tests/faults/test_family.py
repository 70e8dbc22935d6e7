"""Descriptors that are lent to the family's root: who may die when, and what is left afterwards.

The programs are in tests/support/family_scenarios.py; each runs in an interpreter of its own, as the root.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import FORKS_SAID

SCENARIOS = Path(__file__).parents[1] / "support" / "family_scenarios.py"
METHODS = ["fork", "spawn", "forkserver"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors travel on Linux only")


def play(*words):
    done = subprocess.run(
        [sys.executable, *FORKS_SAID, SCENARIOS, *words],
        capture_output=True,
        text=True,
        timeout=90,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("method", METHODS)
def test_what_was_lent_outlives_a_lender_that_is_killed(method):
    play("lender_killed", method)


@pytest.mark.parametrize("method", METHODS)
def test_an_entry_goes_when_its_last_user_is_killed(method):
    play("last_user_killed", method)


def test_a_forked_child_counts_as_a_user_until_it_is_killed():
    play("forked_user_killed")


def test_a_handle_under_way_keeps_what_nobody_uses():
    play("handle_under_way")


def test_children_of_a_killed_root_hear_of_it_and_found_a_family_of_their_own():
    play("root_killed")


def test_a_wrong_secret_gets_nothing():
    play("wrong_secret")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_nothing():
    play("other_user")


@pytest.mark.parametrize("who", ["root", "member"])
def test_lending_without_end_is_an_error_at_the_lender(who):
    play("exhausted", who)


def test_a_root_without_descriptors_says_so_to_whoever_knocks():
    play("no_room_for_a_line")


def test_the_root_forks_while_the_broker_serves():
    play("forks_while_serving")


def test_nothing_is_left_after_a_killed_root():
    play("nothing_left")


def test_the_lock_that_tells_of_use_is_the_users_own():
    play("lock_is_of_the_user")
