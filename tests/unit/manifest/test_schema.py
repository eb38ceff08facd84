"""The published JSON Schema comes from the checker's own table and agrees with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import jsonschema
import pytest

from blackhole_core.errors import ManifestError
from blackhole_core.manifest.fields import MANIFEST
from blackhole_core.manifest.model import Manifest
from blackhole_core.manifest.parse import parse_manifest
from blackhole_core.manifest.schema import manifest_schema

DOCS = Path(__file__).parents[3] / "docs" / "reference"

GOOD = [
    {"name": "echo", "version": "1.0"},
    {"name": "echo", "version": 1.5, "resources": {"cpu": 50, "pids": 3}, "x-me": [1], "config": {}, "threads": 2},
    {"name": "echo", "version": "1", "dependencies": [{"name": "a", "version": ">=1", "optional": True}], "isolation": "vm"},
    {"name": "echo", "version": "1", "state": {"version": 2, "migrates": [1]}, "permissions": ["network"], "capabilities": ["ui"]},
]
BAD = [
    {"name": "echo"},
    {"name": "a b", "version": "1"},
    {"name": "echo", "version": "1", "colour": "red"},
    {"name": "echo", "version": "1", "isolation": "Process "},
    {"name": "echo", "version": "1", "resources": {"cpu": 0}},
    {"name": "echo", "version": "1", "resources": {"pids": 1.5}},
    {"name": "echo", "version": "1", "threads": 0},
    {"name": "echo", "version": "1", "threads": True},
    {"name": "echo", "version": "1", "dependencies": [{"version": "1"}]},
    {"name": "echo", "version": "1", "capabilities": ["ui", "ui"]},
]


def test_the_published_schema_is_current() -> None:
    """The file in the docs is what ``python -m blackhole_core.manifest.schema`` prints; run that to renew it."""
    printed = subprocess.run(
        [sys.executable, "-m", "blackhole_core.manifest.schema"], capture_output=True, text=True, check=True, timeout=60
    )
    assert (DOCS / "manifest.schema.json").read_text(encoding="utf-8") == printed.stdout


def test_the_schema_is_a_schema() -> None:
    """What is published is a valid JSON Schema of its own draft."""
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


@pytest.mark.parametrize("value", GOOD)
def test_schema_and_checker_accept(value: object) -> None:
    """What the checker accepts, the schema accepts."""
    assert parse_manifest(json.dumps(value).encode(), file="x")
    jsonschema.validate(value, manifest_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("value", BAD)
def test_schema_and_checker_refuse(value: object) -> None:
    """What the schema refuses, the checker refuses."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, manifest_schema(), cls=jsonschema.Draft202012Validator)
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(value).encode(), file="x")


def test_the_table_has_every_field_of_the_model() -> None:
    """No field of the model is without a key, and no key without a field."""
    names = {field.name for field in MANIFEST.fields}
    assert names == {field.name for field in attrs.fields(Manifest)} - {"extensions"}


def test_the_page_documents_every_key() -> None:
    """Each key, also of the inner mappings, has its row in the reference page."""
    page = (DOCS / "manifest.md").read_text(encoding="utf-8")
    for name, schema in manifest_schema()["properties"].items():
        assert f"| `{name}`" in page, name
        inner = schema.get("properties") or schema.get("items", {}).get("properties", {})
        for key in inner:
            assert f"| `{name}.{key}`" in page, f"{name}.{key}"


def test_the_pages_example_is_valid() -> None:
    """The YAML in the page is a manifest that the checker takes."""
    page = (DOCS / "manifest.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    assert parse_manifest(example.encode(), file="manifest.md").name == "wordcount"
