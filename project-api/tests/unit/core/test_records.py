"""Files into records: whatever the chunking, whatever is wrong with the file."""

import csv
import io
import time
from collections.abc import AsyncIterator, Iterable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.records import (
    CSV,
    MAX_RECORD_BYTES,
    TSV,
    BadHeader,
    Dialect,
    Record,
    Splitter,
    Table,
    TooManyRows,
    read_table,
)

FIELD = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), max_size=12)
STYLES = [("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)]  # each quotes CR and LF
HOSTILE = st.text(alphabet=',"\n\r\t\0aé', max_size=60).map(str.encode) | st.binary(max_size=60)


def split(data: bytes, dialect: Dialect, cuts: Iterable[int] = ()) -> list[Record]:
    splitter = Splitter(dialect)
    found: list[Record] = []
    start = 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        found += splitter.feed(data[start:end])
        start = end
    return [*found, *splitter.finish()]


def lines_and(records: list[Record]) -> list[tuple[int, list[str] | str | None]]:
    return [(record.line, record.fields if record.error is None else record.error) for record in records]


@given(
    rows=st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=8),
    style=st.sampled_from(STYLES),
    mark=st.booleans(),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
def test_csv_is_read_as_pythons_csv_module_reads_it(
    rows: list[list[str]], style: tuple[str, Literal[0, 1]], mark: bool, cuts: list[int]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=style[0], quoting=style[1]).writerows(rows)
    reader = csv.reader(io.StringIO(text.getvalue(), newline=""), strict=True)
    expected = [row for row in reader if row]

    data = text.getvalue().encode("utf-8-sig" if mark else "utf-8")
    assert [record.fields for record in split(data, CSV, cuts)] == expected


@given(data=HOSTILE, cuts=st.lists(st.integers(0, 100), max_size=8), dialect=st.sampled_from([CSV, TSV]))
def test_however_a_file_is_cut_its_records_are_the_same(data: bytes, cuts: list[int], dialect: Dialect) -> None:
    records = split(data, dialect)
    assert split(data, dialect, cuts) == records
    assert split(data, dialect, range(len(data))) == records
    assert [record.line for record in records] == sorted({record.line for record in records})
    assert all((record.fields is None) != (record.error is None) for record in records)


def test_a_record_is_known_by_the_line_where_it_begins() -> None:
    data = b'a,b\r\n\r\n"one\r\ntwo","say ""hi"""\n\nc,d'
    assert split(data, CSV) == [
        (1, ["a", "b"], None),
        (3, ["one\r\ntwo", 'say "hi"'], None),
        (6, ["c", "d"], None),
    ]


def test_quotes_mean_nothing_in_tsv() -> None:
    data = b'a\t"b\r\n5" pipe\t""\n'
    assert split(data, TSV) == [(1, ["a", '"b'], None), (2, ['5" pipe', '""'], None)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"caf\xe9,1", "byte 4 (0xE9) is not UTF-8"),
        (b"a\0,1", "NUL"),
        (b"a\rb,1", "carriage return"),
        (b'5" or 6" pipe,1', "a quote stands within a field"),
        (b'"a"b,1', "a quote stands within a field"),
        (b'5" pipe,1', "a quote is not closed"),
        (b'"a,1', "a quote is not closed"),
        (b'"a,""1', "a quote is not closed"),
        (b"x" * (MAX_RECORD_BYTES + 1), "longer than 65536 bytes"),
        (b"x" * 10_000_000, "longer than 65536 bytes"),
    ],
)
@pytest.mark.parametrize("size", [1 << 13, 1 << 24])
def test_a_bad_record_costs_its_own_line_only(bad: bytes, reason: str, size: int) -> None:
    data = b'first,1\n%s\nlast,2\n"quoted",3\n' % bad
    first, rejected, *others = split(data, CSV, range(size, len(data), size))
    assert first == (1, ["first", "1"], None)
    assert rejected.line == 2
    assert reason in (rejected.error or "")
    assert others == [(3, ["last", "2"], None), (4, ["quoted", "3"], None)]


def test_an_open_quote_swallows_no_more_than_its_line() -> None:
    rows = b"".join(b"%d,x\n" % number for number in range(30_000))
    records = split(b'"open,1\n' + rows + b'"a\nb",2\n', CSV)
    assert records[0].error is not None
    assert "a quote is not closed" in records[0].error
    assert [record.fields for record in records[1:30_001]] == [[str(number), "x"] for number in range(30_000)]
    assert records[30_001:] == [(30_002, ["a\nb", "2"], None)]


def test_a_stray_quote_costs_its_own_line_and_not_what_lies_before_the_next_one() -> None:
    records = split(b'5" pipe,1\na,2\nb,3\n6" pipe,4\nc,5\n', CSV)
    assert [record.fields for record in records] == [None, ["a", "2"], ["b", "3"], None, ["c", "5"]]
    assert [record.line for record in records] == [1, 2, 3, 4, 5]


def test_a_record_may_be_as_long_as_that_and_no_longer() -> None:
    text = "x" * (MAX_RECORD_BYTES - 100)
    whole = f'"{text}\ny","z"\n'.encode()
    assert split(whole, CSV) == [(1, [f"{text}\ny", "z"], None)]
    long = f'"{text}\n{"y" * 200}"\nlast,1\n'.encode()
    assert [record.line for record in split(long, CSV) if record.error] == [1, 2]
    assert split(long, CSV)[-1] == (3, ["last", "1"], None)


@pytest.mark.parametrize(
    "data",
    [
        b'a",x,"\n' * 25_000,
        b'"\n' + b'x,"y",z\n' * 25_000,
        b'"x\n' * 50_000 + b'"',
        b'"' * 200_000,
        b'""' * 100_000,
        b'","\n' * 50_000,
    ],
)
def test_no_file_takes_more_than_its_length(data: bytes) -> None:
    """These make a splitter that starts over after an open quote read the same bytes again and again."""
    begun = time.process_time()
    for _ in Splitter(CSV).feed(data):
        pass
    assert time.process_time() - begun < 10  # seconds; 0.5, where starting over takes minutes


@pytest.mark.parametrize("piece", [b"x" * 4096, b"x" * 4095 + b"\n", b'"' + b"x" * 4094 + b"\n", b"x\n" * 2048])
def test_no_more_than_a_record_and_a_line_are_held(piece: bytes) -> None:
    splitter = Splitter(CSV)
    list(splitter.feed(b'"'))
    for _ in range(100):
        list(splitter.feed(piece))
        assert len(splitter._rest) + sum(map(len, splitter._open)) <= 2 * MAX_RECORD_BYTES


async def read(data: bytes, dialect: Dialect = CSV, max_rows: int = 10) -> Table:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return await read_table(chunks(), dialect, required=("id", "name"), optional=("size",), max_rows=max_rows)


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (b"id,name\n", ["id", "name"]),
        (b"name,id", ["name", "id"]),
        (b'\xef\xbb\xbf"id",size , name\r\n', ["id", "size", "name"]),
        (b"\n\nid,name\n", ["id", "name"]),
    ],
)
async def test_a_header_names_the_columns_in_any_order(data: bytes, columns: list[str]) -> None:
    table = await read(data)
    assert table.columns == columns
    assert [record async for record in table.rows()] == []


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (b"", ["the file is empty"]),
        (b"\n\r\n", ["the file is empty"]),
        (b"\xef\xbb\xbf", ["the file is empty"]),
        (b"id,size\n", ["missing: 'name'"]),
        (b"id,name,colour,\n", ["unknown: 'colour', ''"]),
        (b"id,name,id,size,size\n", ["named twice: 'id', 'size'"]),
        (b"id\tname\n", ["missing: 'id', 'name'", "unknown: 'id\\tname'", "separated by commas"]),
        (b"1,Paris\n2,Rome\n", ["missing", "unknown: '1', 'Paris'"]),
        (b"id,name," + b"x" * 100 + b",y" * 1000, ["unknown: '" + "x" * 50 + "', 'y'", "and 991 more"]),
        ("id,name\n".encode("utf-16"), ["line 1", "not UTF-8", "save the file as UTF-8"]),
        ("id,name\n".encode("utf-16-le"), ["line 1", "NUL", "save the file as UTF-8"]),
        (b"\nna\xefme,id\n", ["line 2", "not UTF-8"]),
        (b"x" * 70_000, ["longer than 65536 bytes"]),
    ],
)
async def test_another_header_is_refused(data: bytes, reasons: list[str]) -> None:
    with pytest.raises(BadHeader) as refusal:
        await read(data)
    for reason in reasons:
        assert reason in str(refusal.value)


async def test_a_row_is_as_wide_as_the_header() -> None:
    table = await read(b"id\tname\n1\ta\n2\n\n3\tc\td\n", TSV)
    assert [record async for record in table.rows()] == [
        (2, ["1", "a"], None),
        (3, None, "has 1 fields, the header has 2"),
        (5, None, "has 3 fields, the header has 2"),
    ]


async def test_there_are_no_more_rows_than_allowed() -> None:
    table = await read(b"id,name\n" + b"1,a\n" * 2, max_rows=2)
    assert len([record async for record in table.rows()]) == 2
    table = await read(b"id,name\n" + b"1,a\n" * 3, max_rows=2)
    with pytest.raises(TooManyRows, match="more than 2 rows"):
        async for _ in table.rows():
            pass
