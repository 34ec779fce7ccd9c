"""The product's commands under a wall clock that a test can move: seconds off the machine's, read from a file.

Run as `python -m tests.clocked COMMAND`. The monotonic clock is left alone, as when a machine's time is set.
"""

import os
import time
from pathlib import Path

_FILE = Path(os.environ["RECEIVER_TEST_CLOCK"])
_machine = time.time


def _moved() -> float:
    return _machine() + float(_FILE.read_text() or 0)


if __name__ == "__main__":
    time.time = _moved
    from cli.main import main

    main()
