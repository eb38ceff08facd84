"""Whatever bytes come, each reader returns or raises its own error, with little memory; what once went wrong is in the corpus and stays right."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, Reader

CORPUS = Path(__file__).parents[1] / "corpus"
#: Inputs of the cheapest reader; a dear one gets fewer. `python -m tests.fuzz` tries more, with other seeds.
INPUTS = 4000
#: Bytes that reading one input may take: some fifty times its size, as the codec says, of inputs of at most 200 kB.
MEMORY = 32 * 1024 * 1024


def _tried(reader: Reader, data: bytes) -> None:
    """Read; an error that is not the reader's own, or runs out of the stack, fails the test with the bytes."""
    try:
        reader.read(data)
    except reader.errors as error:
        if isinstance(error, RecursionError | MemoryError):
            pytest.fail(f"{data!r} ends in {error!r}")
    except Exception as error:
        pytest.fail(f"{data!r} ends in {error!r}")


@pytest.mark.parametrize("name", READERS)
def test_samples_are_taken(name: str) -> None:
    """What is damaged below is whole before: else nothing but the first byte is ever looked at."""
    reader = READERS[name]
    taken = 0
    for sample in reader.samples:
        try:
            reader.read(sample)
        except Exception:
            continue  # a value is not of every type
        taken += 1
    assert taken == len(reader.samples) or name in ("typed-value", "spawn", "control", "failure")


@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes(name: str) -> None:
    """A02, A04, A05: nothing but the documented error comes out, whatever the seed."""
    reader, chance = READERS[name], random.Random(name)
    for _ in range(INPUTS // reader.cost):
        _tried(reader, mutated(chance, reader.samples))


@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes_take_little_memory(name: str) -> None:
    """A02, A03: what is claimed is not allocated."""
    reader, chance = READERS[name], random.Random(f"{name}, small")
    inputs = [mutated(chance, reader.samples) for _ in range(max(20, 300 // reader.cost))]
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            _tried(reader, data)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY, data
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_went_wrong_once_stays_right(file: Path) -> None:
    """Each file of the corpus is read by the reader whose folder it lies in."""
    _tried(READERS[file.parent.name], file.read_bytes())


def test_the_corpus_is_there() -> None:
    """Every folder of it is a reader's, and there are such folders."""
    folders = {folder.name for folder in CORPUS.iterdir() if folder.is_dir()}
    assert folders
    assert folders <= READERS.keys()
