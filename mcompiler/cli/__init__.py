"""The command line.

Exit codes: 0 fine, 1 the user's to fix, 2 usage, 3 verification failed, 70 our fault, 130 interrupted.
"""

from mcompiler.cli.main import main

__all__ = ["main"]
