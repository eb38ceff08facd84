"""What the documentation shows works: Python blocks run, manifests are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackhole_core.manifest.parse import parse_manifest
from tests.docs import blocks
from tests.docs.blocks import Block, find_blocks, is_manifest, program, run_page, write_files

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): find_blocks(path.read_text("utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in path.parts
}
RUNNABLE = [name for name, found in PAGES.items() if program(found)]
MANIFESTS = [pytest.param(block, id=f"{name}:{block.line}") for name, found in PAGES.items() for block in found if is_manifest(block)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_code_of_a_page_runs(name: str, tmp_path: Path) -> None:
    """The Python blocks of a page run one after the other, as a reader would paste them, without a warning."""
    failure = run_page(name, program(PAGES[name]), tmp_path)
    if failure is not None:
        pytest.fail(failure, pytrace=False)


@pytest.mark.parametrize("block", MANIFESTS)
def test_a_manifest_of_a_page_is_accepted(block: Block) -> None:
    """A plugin.yaml shown in the documentation passes the parser users meet."""
    parse_manifest(block.text.encode(), file="plugin.yaml")


PAGE = """\
Text, then:

```python
x = 1
```

- in a list
  ```python
  x += 1
  if x != 2:
      raise SystemExit("no shared namespace")
  ```

% no-run
```python
raise AssertionError("left out by a comment")
```

```python no-run
raise AssertionError("left out by the info string")
```

````markdown
```python
raise AssertionError("part of a longer block")
```
````

:::{code-block} python
:caption: x.py
import asyncio
await asyncio.sleep(0)
:::

:::{note}
```python
FAILING
```
:::
"""


def test_a_page_that_works_is_silent(tmp_path: Path) -> None:
    """Blocks share a namespace, await at top level, and those marked no-run are left out."""
    assert run_page("docs/page.md", program(find_blocks(PAGE.replace("FAILING", "assert x == 2"))), tmp_path) is None


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise RuntimeError('broken example')", "RuntimeError: broken example"),
        ("x = = 2", "SyntaxError"),
        ("import warnings; warnings.warn('old example', DeprecationWarning)", "DeprecationWarning: old example"),
    ],
)
def test_a_page_that_fails_is_named_with_its_line(broken: str, said: str, tmp_path: Path) -> None:
    """The check can fail: an exception, a syntax error, a warning; the report has the page's name and line."""
    line = PAGE.splitlines().index("FAILING") + 1
    failure = run_page("docs/page.md", program(find_blocks(PAGE.replace("FAILING", broken))), tmp_path)
    assert failure is not None
    assert said in failure
    assert f'"docs/page.md", line {line}' in failure


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("open('kept', 'w')", "ResourceWarning: unclosed file"),
        ("import threading; threading.Thread(target=lambda: 1 / 0).start()", "ZeroDivisionError"),
    ],
)
def test_a_failure_that_nobody_can_catch_fails_the_page(broken: str, said: str, tmp_path: Path) -> None:
    """A file that is left open and an exception in a thread fail the page as well."""
    failure = run_page("docs/page.md", broken, tmp_path)
    assert failure is not None
    assert said in failure


def test_a_page_that_never_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page whose code hangs is a failure with the page's name, and its process is ended."""
    monkeypatch.setattr(blocks, "PAGE_TIMEOUT", 0.5)
    failure = run_page("docs/page.md", "import threading; threading.Event().wait()", tmp_path)
    assert failure is not None
    assert failure.startswith("docs/page.md: its blocks did not end within 0.5 s")


def test_a_named_block_is_a_file(tmp_path: Path) -> None:
    """A block whose first line names a file is written there, where the page has it, and is not run."""
    page = "```python\n# pack/late.py\nraise AssertionError\n```\n"
    found = find_blocks(page)
    assert run_page("docs/page.md", program(found), tmp_path) is None
    assert (tmp_path / "pack" / "late.py").read_text("utf-8") == "# pack/late.py\nraise AssertionError\n"

    write_files(found, tmp_path / "other")
    assert (tmp_path / "other" / "pack" / "late.py").read_bytes() == (tmp_path / "pack" / "late.py").read_bytes()


@pytest.mark.parametrize(("command", "works"), [("true", True), ("false", False)])
def test_commands_run_where_the_page_says_so(command: str, works: bool, tmp_path: Path) -> None:
    """The lines after ``$`` of a block marked ``run`` are run; one that fails fails the page. Other blocks are only shown."""
    page = f"```console run\n$ {command}\noutput\n```\n```console\n$ false\n```\n"
    assert (run_page("docs/page.md", program(find_blocks(page)), tmp_path) is None) is works


def test_a_block_that_is_never_closed_is_an_error() -> None:
    """A missing closing fence would hide every block after it."""
    with pytest.raises(ValueError, match="line 2: the block that begins here is never closed"):
        find_blocks("text\n```python\nx = 1\n")


def test_a_fragment_is_no_manifest() -> None:
    """Only blocks with name and version at the top level are taken for a whole plugin.yaml."""
    whole, nested, other = find_blocks(
        "```yaml\nname: a\nversion: 1.0.0\n```\n```yaml\nplugins:\n  name: a\n  version: 1\n```\n```toml\nname: a\n```\n"
    )
    assert [is_manifest(block) for block in (whole, nested, other)] == [True, False, False]
