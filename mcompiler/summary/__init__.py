"""Summaries for the terminal: plain text without colours or box characters, the same in a pipe and on a terminal."""

from mcompiler.summary.compiled import compile_summary
from mcompiler.summary.compressed import compress_summary, demo_comparison
from mcompiler.summary.costs import cost_summary
from mcompiler.summary.trials import trials_summary
from mcompiler.summary.verified import verify_summary

__all__ = [
    "compile_summary",
    "compress_summary",
    "cost_summary",
    "demo_comparison",
    "trials_summary",
    "verify_summary",
]
