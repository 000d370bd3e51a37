"""``python -m mcompiler``."""

from mcompiler.cli import main

if __name__ == "__main__":
    main()
