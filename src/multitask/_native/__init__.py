"""The compiled core, when it is there: ``available`` says whether, ``why_not`` says what is missing."""

from __future__ import annotations

import os

available = False
why_not = ""

if os.environ.get("MULTITASK_NATIVE", "1") == "0":
    why_not = "MULTITASK_NATIVE=0 is set"
else:
    try:
        from . import core as core

        available = True
    except ImportError as error:
        why_not = f"the compiled extension is not there ({error}); install a C compiler and reinstall multitask"
