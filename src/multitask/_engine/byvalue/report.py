"""An error on its way from a worker: written so that it always arrives, read so that it is as it was.

The parcel holds plain texts (traceback, type, message) that can always be read, and, as pickles inside
it, the ways to rebuild the exception, best first.
"""

from __future__ import annotations

import pickle

from multitask._engine.byvalue.errors import (
    bare_error,
    full_traceback,
    name_of,
    reduces_itself,
    stand_in,
    text_of,
    with_source_lines,
)
from multitask._engine.byvalue.graph import Parcel
from multitask._engine.byvalue.home import PROTOCOL
from multitask._engine.byvalue.pickling import Traveller, pickled_somehow
from multitask._typing import Any
from multitask.errors import RemoteTraceback


class _Bare:
    """Pickles an exception without asking its own ``__reduce__``."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return bare_error(self.error)


def write_error(error: BaseException, traveller: Traveller) -> Parcel:
    """The parcel for *error*; never fails."""
    name, message, told = "an error", "", "an error that could not be described"
    ways: list[bytes] = []
    try:
        name, message, told = name_of(error), text_of(error), full_traceback(error)
        ways = _ways(error, traveller)
    except BaseException:  # whatever a hostile exception does, the texts arrive
        pass
    try:
        return Parcel(pickle.dumps((str(name), str(message), str(told), ways), PROTOCOL))
    except BaseException:
        return Parcel(pickle.dumps(("an error", "", "an error that could not be described", []), PROTOCOL))


def _ways(error: BaseException, traveller: Traveller) -> list[bytes]:
    ways = []
    attempts: list[object] = [error, _Bare(error)] if reduces_itself(error) else [error]
    for attempt in attempts:
        data = _try(attempt, traveller)
        if data is not None:
            ways.append(data)
    if len(ways) < len(attempts):
        ways.append(_parts(error, traveller))
    return ways


def _try(thing: object, traveller: Traveller) -> bytes | None:
    try:
        return pickled_somehow(traveller, thing, in_band=True)[0]
    except BaseException:
        return None


def _parts(error: BaseException, traveller: Traveller) -> bytes:
    """A stand-in: the class if it can travel, the attributes that can, the names of those that cannot."""
    kind: type[BaseException] | None = type(error)
    if _try(kind, traveller) is None:
        kind = next((base for base in type(error).__mro__[1:] if _try(base, traveller) is not None), None)
    kept, lost = {}, {}
    for name, value in (getattr(error, "__dict__", None) or {}).items():
        try:
            pickled_somehow(traveller, value, in_band=True)
            kept[name] = value
        except BaseException as why:
            lost[name] = f"{type(why).__name__}: {text_of(why)}"
    made = stand_in(name_of(error), text_of(error), lost, kind, kept)
    return pickled_somehow(traveller, made, in_band=True)[0]


def read_error(parcel: Parcel) -> BaseException:
    """The error in *parcel* with its remote traceback as the cause; never raises."""
    name, message, told, ways = "an error", "", "its description could not be read", []
    try:
        name, message, told, ways = pickle.loads(parcel.data, buffers=parcel.buffers)
        told = with_source_lines(told)
    except Exception as error:
        message = f"{type(error).__name__}: {text_of(error)}"
    answer: BaseException | None = None
    for way in ways:
        try:
            made = pickle.loads(way)
            if isinstance(made, BaseException):
                answer = made
                break
        except BaseException:  # its class cannot be rebuilt here: the next way
            continue
    if answer is None:
        answer = stand_in(name, message, {}, None, {})
    cause = RemoteTraceback(told)
    # Past classes that refuse to have attributes set.
    vars(BaseException)["__cause__"].__set__(answer, cause)
    return answer
