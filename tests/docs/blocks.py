"""Fenced code blocks of Markdown pages, and running them.

Rules: a block belongs to the language of its info string (```` ```python ````) or of its directive (```` ```{code-block} python ````). It is left
out when ``no-run`` stands in the info string, or ``% no-run`` (MyST) or ``<!-- no-run -->`` (README) on the line above. The blocks of one
page share a namespace, as a reader pastes them one after the other. A block whose first line is a comment with a relative path (``# shout/shout.py``)
is a file: it is written there when the program comes to it, and not run. Of ```` ```console run ```` the lines after ``$`` are run. The program made of all this keeps each line at its line number, so a
traceback names page and line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Block", "find_blocks", "is_manifest", "program", "run_page", "write_files"]

#: Seconds for the blocks of one page: they are examples, not workloads.
PAGE_TIMEOUT: Final = 60

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
_DIRECTIVE: Final = re.compile(r"\{(?:code-block|code|sourcecode)\}\s*(?P<language>\S*)")
_FILE: Final = re.compile(r"# (?P<path>(?:[\w-]+/)*[\w.-]+\.(?:py|toml|yaml))")
_NO_RUN: Final = ("% no-run", "<!-- no-run -->")

#: Compiled with the page's own name, so that tracebacks show the page; a top-level ``await`` runs in an event loop. What goes wrong where
#: nobody can catch it (in a thread, in a finaliser, such as the warning of a file left open) fails the page too.
_RUN: Final = """\
import ast, asyncio, gc, inspect, linecache, sys, threading
unseen = []
sys.unraisablehook = lambda event: (unseen.append(event.exc_type), sys.__unraisablehook__(event))
threading.excepthook = lambda event: (unseen.append(event.exc_type), threading.__excepthook__(event))
source, page = sys.stdin.read(), sys.argv[1]
linecache.cache[page] = (len(source), None, source.splitlines(True), page)
space = {"__name__": "__main__"}
result = eval(compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), space)
if inspect.iscoroutine(result):
    asyncio.run(result)
del result
space.clear()
gc.collect()
sys.exit(bool(unseen))
"""


@attrs.frozen
class Block:
    """One fenced block: its language, its text without the fence, and the line (from 1) its text begins at."""

    language: str
    text: str
    line: int
    run: bool = True
    commands: bool = False  #: the page asks for its shell commands to be run

    @property
    def file(self) -> str | None:
        """Path of the file that this block is, None for code to be run."""
        named = _FILE.fullmatch(self.text.partition("\n")[0].rstrip())
        return named["path"] if named is not None else None


def find_blocks(markdown: str) -> list[Block]:
    """Return the fenced code blocks of a page, in order. A fence that is never closed is an error."""
    lines = markdown.splitlines()
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if opening is None or (opening["fence"][0] == ":" and not _DIRECTIVE.search(opening["info"])):
            index += 1  # text, or a colon fence that is an admonition: what it holds is read like any text
            continue
        end = _closing(lines, index, opening["fence"])
        blocks.append(_block(lines, index, end, opening["info"].strip()))
        index = end + 1
    return blocks


def _closing(lines: list[str], start: int, fence: str) -> int:
    closing = re.compile(rf"^\s*{re.escape(fence[0])}{{{len(fence)},}}\s*$")
    for index in range(start + 1, len(lines)):
        if closing.match(lines[index]):
            return index
    raise ValueError(f"line {start + 1}: the block that begins here is never closed")


def _block(lines: list[str], start: int, end: int, info: str) -> Block:
    directive = _DIRECTIVE.match(info)
    words = info.split()
    language = directive["language"] if directive else (words[0] if words else "")
    above = lines[start - 1].strip() if start else ""
    body = lines[start + 1 : end]
    if directive:  # options of the directive are not code
        body = ["" if re.match(r"\s*:[\w-]+:", line) else line for line in body]
    return Block(
        language,
        textwrap.dedent("\n".join(body)),
        start + 2,
        run="no-run" not in words and above not in _NO_RUN,
        commands=words[:2] == ["console", "run"],
    )


def program(blocks: Iterable[Block]) -> str:
    """Return one program of all Python blocks that are to be run and all files, each line at the number it has in the page."""
    lines: list[str] = []
    for block in blocks:
        code = _code(block) if block.run else []
        if code:
            lines.extend([""] * (block.line - 1 - len(lines)))
            lines.extend(code)
    return "\n".join(lines)


def _code(block: Block) -> list[str]:
    if block.file is not None:
        return [_writing(block.file, block.text)]
    if block.commands:
        return [_running(line.removeprefix("$ ")) for line in block.text.splitlines() if line.startswith("$ ")]
    return block.text.splitlines() if block.language == "python" else []


def _running(command: str) -> str:
    """Return one line of Python that runs a shell command with this interpreter's programs; pip works offline, with the tools that are installed."""
    if command.startswith("pytest"):
        command = f"{sys.executable} -m {command} -q -p no:cacheprovider --rootdir ."
    elif command.startswith("blackhole "):
        command = f"{Path(sys.executable).with_name('blackhole')}{command.removeprefix('blackhole')}"
    elif command.startswith("pip "):
        # The warnings of pip's own code are not the page's: old ones, as in a fresh venv, warn of their own dependencies.
        command = f"PYTHONWARNINGS= {sys.executable} -m {command} --no-build-isolation --no-index --disable-pip-version-check"
    return f"__import__('subprocess').run({command!r}, shell=True, check=True)"


def _writing(path: str, text: str) -> str:
    """Return one line of Python that writes a file, with the directories above it."""
    place = f"__import__('pathlib').Path({path!r})"
    return f"{place}.parent.mkdir(parents=True, exist_ok=True); {place}.write_text({text + chr(10)!r}, 'utf-8')"


def write_files(blocks: Iterable[Block], directory: Path) -> None:
    """Write the files of a page, as a reader would who reads it to its end."""
    for block in blocks:
        if block.run and block.file is not None:
            path = directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{block.text}\n", "utf-8")


def run_page(name: str, source: str, directory: Path) -> str | None:
    """Run ``source`` in a fresh interpreter in ``directory``; return what it said when it failed, None when it did not."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    try:
        run = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", _RUN, name],
            input=source,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PAGE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return f"{name}: its blocks did not end within {PAGE_TIMEOUT} s\n{(late.output or b'').decode(errors='replace')}"
    return None if run.returncode == 0 else run.stdout


def is_manifest(block: Block) -> bool:
    """Tell whether a YAML block looks like a whole ``plugin.yaml``: name and version at its top level."""
    return block.language == "yaml" and block.run and all(re.search(rf"^{key}:", block.text, re.MULTILINE) for key in ("name", "version"))
