"""The command line.

Exit codes: 0 success, 1 an error in the input, 2 usage, 3 verification failed, 70 an internal error, 130 interrupted.
"""

from mcompiler.cli.main import main

__all__ = ["main"]
