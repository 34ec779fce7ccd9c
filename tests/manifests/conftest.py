"""The tools come from `make manifests`, in a folder of their own; without them these tests are not collected."""

import os

collect_ignore_glob = [] if "MANIFEST_TOOLS" in os.environ else ["test_*.py"]
