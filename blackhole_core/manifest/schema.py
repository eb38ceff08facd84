"""The JSON Schema of ``plugin.yaml``, made from the table that also checks it. ``python -m blackhole_core.manifest.schema`` prints it."""

from __future__ import annotations

from typing import Any

from blackhole_core.manifest.fields import MANIFEST

__all__ = ["manifest_schema"]


def manifest_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) as plain data.

    It accepts every manifest that the checker accepts; the checker also knows rules that no schema can state.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Blackhole plugin manifest (plugin.yaml)",
        **MANIFEST.schema(),
    }


def main() -> None:
    import json
    import sys

    json.dump(manifest_schema(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
