#!/usr/bin/env python
"""Silentmode's command line; `manage.py help` lists the commands."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "silentmode.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as bad:
        sys.exit(f"silentmode cannot start: {bad}")


if __name__ == "__main__":
    main()
