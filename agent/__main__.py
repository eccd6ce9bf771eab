import os
import sys

# websockets takes its limits from the environment, and with some values an agent would never come online:
# with WEBSOCKETS_MAX_REDIRECTS=0 no connection is tried at all. This agent follows no redirect anyhow.
for name in [name for name in os.environ if name.startswith("WEBSOCKETS_")]:
    del os.environ[name]

from .cli import main  # noqa: E402

sys.exit(main())
