"""``python -m multitask`` is the command ``multitask``."""

import sys

from multitask.cli import main

if __name__ == "__main__":
    sys.exit(main())
