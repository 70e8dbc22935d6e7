"""What stands for a global that could not travel: any touch of it raises CannotTravel and names it."""

from __future__ import annotations

import sys

from multitask._typing import Any, NoReturn

_object_new = object.__new__


def make_missing(name: str, why: str) -> Missing:
    made: Missing = _object_new(Missing)
    object.__setattr__(made, "_told", (name, why))
    return made


class Missing:
    """Stands for a value that could not travel; raises when it is used in any way."""

    __slots__ = ("__weakref__", "_told")

    def __getattribute__(self, name: str) -> Any:
        if name in ("__reduce_ex__", "__reduce__"):
            return object.__getattribute__(self, name)
        _touched(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return make_missing, object.__getattribute__(self, "_told")

    def __repr__(self) -> str:
        name, why = object.__getattribute__(self, "_told")
        return f"<{name} did not travel: {why}>"


def _touched(missing: Missing, *args: object, **kwargs: object) -> NoReturn:
    from multitask.errors import CannotTravel

    name, why = object.__getattribute__(missing, "_told")
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    error = CannotTravel(
        f"{name} did not travel to this worker (used at {frame.f_code.co_filename}:{frame.f_lineno})",
        why=why,
        fix="make it in the worker: in the task itself, or once per worker in Pool(initializer=…)",
    )
    error.path = name
    raise error


_TOUCHES = """
    call enter exit aenter aexit iter next aiter anext await len bool contains getitem setitem delitem setattr delattr
    eq ne lt le gt ge hash str format bytes int float complex index round abs neg pos invert fspath get
    add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor
    radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor
    iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor
"""
for _word in _TOUCHES.split():
    if _word != "get":  # as a class attribute it is touched when used, not when looked up
        setattr(Missing, f"__{_word}__", _touched)
