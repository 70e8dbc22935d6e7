"""What a member and its root say to each other, and the ticket by which a descriptor is found again.

One request is one message (SOCK_SEQPACKET): nothing is ever unpickled from a peer.
"""

from __future__ import annotations

import struct

from multitask._typing import NamedTuple

HELLO = b"H"  # the secret follows; the first message on each line
LEND = b"L"  # the key follows (empty: none); a descriptor comes with it
HOLD = b"K"  # like LEND without a key, to be borrowed until it is dropped
BORROW = b"B"  # number
LOOK_IN = b"I"  # number: like BORROW, by a handle that did not count
FORGO = b"F"  # number; no answer: a handle was read, its descriptor is not needed
RELEASE = b"R"  # the key follows; no answer: the sender's last use has ended
DROP = b"D"  # number; no answer: the lender wants it back

OK, GONE, FULL, REFUSED = range(4)

NUMBER = struct.Struct("=Q")
ANSWER = struct.Struct("=BQ")  # OK and a number; or why not, and a number for the message
SECRET_BYTES = 32
MOST_BYTES = 256  # of any message


class Address(NamedTuple):
    """Where a root is found and how a member proves to be one."""

    name: bytes
    secret: bytes
    pid: int


class Ticket(NamedTuple):
    """A lent descriptor: whoever reads it can borrow it. Small and picklable."""

    name: bytes
    secret: bytes
    pid: int
    number: int

    @property
    def address(self) -> Address:
        """The root that keeps it."""
        return Address(self.name, self.secret, self.pid)
