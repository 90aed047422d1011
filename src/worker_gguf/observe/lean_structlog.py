"""structlog without rich, which it imports where it is installed: 70 ms, for tracebacks that show local variables."""

from __future__ import annotations

import sys

if "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say that a module is not there
    try:
        import structlog
    finally:
        del sys.modules["rich"]

__all__ = ["structlog"]
