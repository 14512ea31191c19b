"""A file of records, read while it arrives: chunks of bytes in, lists of fields out.

How it works: `Splitter` cuts bytes into records; `read_table` reads the header off them, and its `Table` yields
the others, each as wide as the header. Two kinds of file:

- *CSV* (RFC 4180): fields are separated by commas. A field that holds a comma, a quote or the end of a line is
  enclosed in quotes, and quotes within are doubled. A quote anywhere else makes a record unreadable.
- *TSV* (as GeoNames' own files): fields are separated by tabs, and nothing else means anything: no quotes.

The text is UTF-8, lines end with LF or CRLF; a byte order mark at the start and blank lines are passed over.

What cannot be read becomes a `Record` with an error, and reading goes on at the line after the one where it
began: so a quote that is never closed costs its own line. No more than `MAX_RECORD_BYTES` are held for a record:
one that is longer, or a line without an end, is such an error, too. No byte is looked at more than twice.

What belongs here: the syntax of files. What the fields mean is checked by the worker, which loads them.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_RECORD_BYTES = 64 * 1024

_MARK = b"\xef\xbb\xbf"  # U+FEFF in UTF-8: the byte order mark that Windows' programs put first

# Possessive (`*+`), so that no text makes it go back and try again.
_FIELD = r'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_QUOTED_RECORD = re.compile(rf"{_FIELD}(?:,{_FIELD})*+")

_CURE = "enclose a field that holds quotes in quotes, and double those within"
_TOO_LONG = f"is longer than {MAX_RECORD_BYTES} bytes, perhaps as a quote is not closed: shorten it, or {_CURE}"
_NEVER_CLOSED = f"a quote is not closed: {_CURE}"
_STRAY_QUOTE = f"a quote stands within a field: {_CURE}"


class BadHeader(ValueError):  # noqa: N818  # a state of the file, and the name is what is read
    """The file does not begin with a header that names the right columns."""


class TooManyRows(ValueError):  # noqa: N818
    """The file has more rows than are taken."""


class _Unreadable(ValueError):  # noqa: N818
    """These bytes are no record."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How fields are written: what separates them, and whether quotes enclose them."""

    delimiter: str
    quotes: bool


CSV = Dialect(delimiter=",", quotes=True)
TSV = Dialect(delimiter="\t", quotes=False)


class Record(NamedTuple):  # not a dataclass: there are millions, and this is made in a quarter of the time
    """One record: the line where it begins, from 1, and its fields, or why it cannot be read."""

    line: int
    fields: list[str] | None
    error: str | None


class Splitter:
    """Cuts a file into records. However the file is cut into chunks, the records are the same."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._rest = bytearray()  # the line that has not ended yet
        self._dropping = False  # that line is too long already, and what else comes of it is dropped
        self._open: list[bytes] = []  # the lines of a record whose quote is not closed yet
        self._open_bytes = 0
        self._line = 1  # the number of the first line that belongs to no record yet

    def feed(self, data: bytes) -> Iterator[Record]:
        """Take the file's next bytes; yield the records that end in them. Exhaust it before the next call."""
        *lines, rest = data.split(b"\n")
        if lines:
            first = None if self._dropping else bytes(self._rest) + lines[0]
            self._rest.clear()
            self._dropping = False
            yield from self._split([first, *lines[1:]])
        if not self._dropping:
            self._rest += rest
            self._dropping = len(self._rest) > MAX_RECORD_BYTES

    def finish(self) -> Iterator[Record]:
        """Take the file's end; yield the records that end there."""
        yield from self._split([None if self._dropping else bytes(self._rest)])
        while self._open:
            others = self._give_up()
            yield self._error(_NEVER_CLOSED)
            yield from self._split(others)

    def _split(self, lines: Iterable[bytes | None]) -> Iterator[Record]:
        """Yield the records of whole lines; None is a line that was dropped."""
        waiting = deque(lines)
        while waiting:
            line = waiting.popleft()
            if line is None or self._open_bytes + len(line) > MAX_RECORD_BYTES:
                if self._open:
                    waiting.appendleft(line)
                    waiting.extendleft(reversed(self._give_up()))
                yield self._error(_TOO_LONG)
                continue
            if self._line == 1 and not self._open:
                line = line.removeprefix(_MARK)
            quotes = line.count(b'"') if self._dialect.quotes else 0
            if quotes or self._open:
                self._open.append(line)
                self._open_bytes += len(line) + 1
                # A line ends its record when the quotes so far are even; those of an open record are odd.
                if (len(self._open) > 1) == (quotes % 2 == 0):
                    continue
                record = b"\n".join(self._open)
            elif line in (b"", b"\r"):
                self._line += 1
                continue
            else:
                record = line
            try:
                fields = self._parse(record.removesuffix(b"\r"))
            except _Unreadable as error:
                waiting.extendleft(reversed(self._give_up()))
                yield self._error(str(error))
            else:
                yield Record(self._line, fields, None)
                self._line += len(self._open) or 1
                if self._open:
                    self._give_up()

    def _give_up(self) -> list[bytes]:
        """End the open record; return its lines but the first, which may be records of their own."""
        others = self._open[1:]
        self._open.clear()
        self._open_bytes = 0
        return others

    def _error(self, error: str) -> Record:
        """Return the record of one line that cannot be read."""
        self._line += 1
        return Record(self._line - 1, None, error)

    def _parse(self, record: bytes) -> list[str]:
        try:
            text = record.decode()
        except UnicodeDecodeError as error:
            byte = f"0x{record[error.start]:02X}"
            raise _Unreadable(f"byte {error.start + 1} ({byte}) is not UTF-8: save the file as UTF-8") from None
        if "\0" in text:
            raise _Unreadable(
                "holds a NUL character, which cannot be stored: remove it, and save the file as UTF-8"
            )
        if self._dialect.quotes and '"' in text:
            if not _QUOTED_RECORD.fullmatch(text):
                raise _Unreadable(_STRAY_QUOTE)
            fields: list[str] = next(csv.reader([text], strict=True))
            return fields
        if "\r" in text:
            raise _Unreadable("holds a carriage return: end lines with LF or CRLF")
        return text.split(self._dialect.delimiter)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file whose header has been read; its rows are still to come, and come once."""

    columns: Sequence[str]
    records: AsyncIterator[Record]
    max_rows: int

    async def rows(self) -> AsyncIterator[Record]:
        """Yield every record after the header; one that is not as wide as the header has an error.

        Raises:
            TooManyRows: there are more than `max_rows`.
        """
        width = len(self.columns)
        count = 0
        async for record in self.records:
            count += 1
            if count > self.max_rows:
                raise TooManyRows(
                    f"the file has more than {self.max_rows} rows: split it, and send each part by itself"
                )
            if record.fields is not None and len(record.fields) != width:
                yield Record(record.line, None, f"has {len(record.fields)} fields, the header has {width}")
            else:
                yield record


async def read_table(
    chunks: AsyncIterator[bytes],
    dialect: Dialect,
    *,
    required: Collection[str],
    optional: Collection[str],
    max_rows: int,
) -> Table:
    """Read a file up to its header.

    Args:
        chunks: the file's bytes.
        dialect: how its fields are written.
        required: columns that the header must name.
        optional: columns that it may name; it names no others, and none twice.
        max_rows: most rows after the header.

    Raises:
        BadHeader: there is no such header.
    """
    records = _records(chunks, Splitter(dialect))
    header = await anext(records, None)
    if header is None:
        raise BadHeader(f"the file is empty: its first line names its columns, {', '.join(required)}")
    if header.fields is None:
        raise BadHeader(f"line {header.line}, which should name the columns, cannot be read: {header.error}")
    columns = [field.strip() for field in header.fields]
    known = (*required, *optional)
    wrong = {
        "missing": [name for name in required if name not in columns],
        "unknown": [name for name in columns if name not in known],
        "named twice": [name for name, count in Counter(columns).items() if count > 1 and name in known],
    }
    found = [f"{what}: {_listed(names)}" for what, names in wrong.items() if names]
    if found:
        raise BadHeader(
            f"line {header.line} should name the columns; {'; '.join(found)}. Required are "
            f"{', '.join(required)}; {', '.join(optional)} may be there, in any order, separated by "
            + ("tabs" if dialect.delimiter == "\t" else "commas")
        )
    return Table(columns=columns, records=records, max_rows=max_rows)


async def _records(chunks: AsyncIterator[bytes], splitter: Splitter) -> AsyncIterator[Record]:
    async for chunk in chunks:
        for record in splitter.feed(chunk):
            yield record
    for record in splitter.finish():
        yield record


def _listed(names: Sequence[str], most: int = 10, longest: int = 50) -> str:
    """Return names for a message, however many and long a client has made them."""
    listed = [repr(name[:longest]) for name in names[:most]]
    return ", ".join(listed) + (f" and {len(names) - most} more" if len(names) > most else "")
