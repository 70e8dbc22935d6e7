"""Exhaustive models of the protocols between parent, callers and workers."""
