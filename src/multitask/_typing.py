"""What worker processes need of ``typing``: loading the real one takes a tenth of the time a worker takes to start.

Type checkers see the real names. At run time annotations are never evaluated here, so that a stand-in will do for
all names but NamedTuple, which is made in the same way as the real one. Modules whose annotations are for the user
(``Pool``, ``Task``, …) import ``typing`` itself: ``get_type_hints`` works on them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
else:
    from collections import namedtuple

    Any = NoReturn = Protocol = object

    class _Fields(type):
        """Turns the body of a class into a named tuple with these fields and methods."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.pop("__annotations__")
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for key, value in body.items():
                if key not in ("__qualname__", "__orig_bases__"):
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Fields):
        """``typing.NamedTuple`` for classes that say what their fields are; nothing else of it."""
