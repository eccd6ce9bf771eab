"""The export that the uplink is measured with: like a till's, and the same on every machine."""

import csv
import hashlib
import zlib
from pathlib import Path

import pytest

from benchmarks import sales

SIZE = 1 << 20


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A MiB of it."""
    return sales.write(tmp_path_factory.mktemp("sales") / "sales.csv", SIZE).read_bytes()


def test_it_is_the_same_each_time(export: bytes) -> None:
    digest = "0114e4cd60af2650eaac231c34ed1d3059226f5099505ee5845ef76951627101"
    assert hashlib.sha256(export).hexdigest() == digest


def test_another_seed_makes_another_one(export: bytes, tmp_path: Path) -> None:
    other = sales.write(tmp_path / "sales.csv", SIZE, seed=1).read_bytes()
    assert other.partition(b"\n")[0] == export.partition(b"\n")[0]
    assert other != export


def test_it_has_the_size_that_was_asked_for(export: bytes, tmp_path: Path) -> None:
    assert len(export) == SIZE
    assert sales.write(tmp_path / "sales.csv", 100).read_bytes() == export[:100]


def test_its_receipts_add_up(export: bytes) -> None:
    text = export.decode("ascii")
    rows = list(csv.DictReader(text[: text.rindex("\n")].splitlines(), delimiter=";"))
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    for row in rows:
        whole = int(row["quantity"]) * float(row["unit_price"]) - float(row["discount"])
        assert float(row["amount"]) == pytest.approx(whole)
        assert len(row["ean"]) == 13
        weighed = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(row["ean"]))
        assert weighed % 10 == 0


def test_it_shrinks_as_such_files_do(export: bytes) -> None:
    """Neither random bytes nor one line again and again: what compression is measured with."""
    assert 4 < len(export) / len(zlib.compress(export)) < 8
