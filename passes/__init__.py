"""The compiler passes, one per file. The list that the driver runs is in ``mcompiler.driver``."""
