"""Before an ingress pod goes (preStop): waits until no proxy sends here any more and nothing lies in the spool.

It gives up after ten minutes, below terminationGracePeriodSeconds. What is left then stays on the pod's volume, which
is kept: the pod of the same number publishes it when there is one again (docs/runbook.md, SpoolNotEmpty).
"""

import os
import re
import sys
import time
import urllib.request

ADDRESS = os.environ.get("DRAIN_METRICS", "http://127.0.0.1:9090/metrics")
PROXIES_SECONDS = float(os.environ.get("DRAIN_PROXIES_SECONDS", "5"))
LONGEST_SECONDS = float(os.environ.get("DRAIN_LONGEST_SECONDS", "600"))


def in_spool() -> float:
    """How many events lie there; none if the process does not say, for then it is gone or has no spool."""
    with urllib.request.urlopen(ADDRESS, timeout=5) as answer:  # noqa: S310 - an address of this pod
        found = re.search(r"^receiver_spool_events(?:\{[^}]*\})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def main() -> None:
    """Waits; always succeeds, because a failed hook would only end the pod sooner."""
    give_up_at = time.monotonic() + LONGEST_SECONDS
    time.sleep(PROXIES_SECONDS)
    try:
        while in_spool() > 0 and time.monotonic() < give_up_at:
            time.sleep(1)
    except OSError as error:
        print(f"the metrics can't be read: {error}", file=sys.stderr)  # noqa: T201 - into the event of the pod


if __name__ == "__main__":
    main()
