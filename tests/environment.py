"""Directories for the tests, before Django reads its settings: loaded by `-p` in pyproject.toml."""

import atexit
import os
import shutil
import tempfile

directory = tempfile.mkdtemp(prefix="silentmode-tests-")
atexit.register(shutil.rmtree, directory, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("SILENTMODE_")]:
    del os.environ[name]  # nothing of the developer's own set-up
os.environ["SILENTMODE_DATA_DIR"] = directory
os.environ["SILENTMODE_STATE_DIR"] = f"{directory}/agent"  # no test writes to a home
os.environ.pop("DATABASE_URL", None)
os.environ.pop("REDIS_URL", None)
