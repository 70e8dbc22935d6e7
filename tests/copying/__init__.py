"""Tests of copying, from the pure plan to real folders."""
