"""``python -m tests.compat``."""

from __future__ import annotations

from tests.compat.run import main

raise SystemExit(main())
