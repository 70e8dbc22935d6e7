"""The kinds of message on a lane, the same on rings and pipes."""

from __future__ import annotations

# submitting process -> worker
CALL = 1  # (number of the function or 0, mode, parcel)
DEFINE = 2  # (id, name or None, parcel)
FORGET = 3  # (ids)
STOP = 4  # ()

# worker -> submitting process
HELLO = 5  # (): initialized, ready for calls
OK = 6  # (parcel): the call returned this
ERROR = 7  # (parcel): the call raised this
BYE = 8  # (reason): ends by itself, takes nothing more
BROKEN = 9  # (parcel): could not be initialized

NAMES = {CALL: "CALL", DEFINE: "DEFINE", FORGET: "FORGET", STOP: "STOP", HELLO: "HELLO"}
NAMES |= {OK: "OK", ERROR: "ERROR", BYE: "BYE", BROKEN: "BROKEN"}
