"""The meter: answer sets, judges, metrics, and their record."""

import sys

from fade.console import listen

if sys.argv[0] == "-m":  # python -m benchmarks.NAME: before the imports of the command itself, which take seconds
    listen()
