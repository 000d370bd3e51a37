"""Size of what is printed on one screen."""

from __future__ import annotations

SCREEN = 100
"""Columns that a summary may take."""

LARGEST = 8
"""Layers that a summary lists."""

REASONS = 3
"""Reasons listed for nodes that stay digital."""

REASON = 64
"""Columns of a reason."""
