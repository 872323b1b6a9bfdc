"""Local files to rows. Every reader yields (line, record) and reports what it cannot read with file and line."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, cast

from alignkit.errors import Problem, UserError
from alignkit.examples.files import format_of
from alignkit.examples.types import did_you_mean

Report = Callable[[Problem], None]
Record = tuple[int | None, dict[str, Any]]
# How a text file is cut into documents, in the words of `datasets`' text loader; and how csv and tsv files are written.
OPTIONS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "text": {"sample_by": ("line", "paragraph", "document")},
    "csv": {"delimiter": None, "quoting": ("minimal", "none")},
    "tsv": {"delimiter": None, "quoting": ("minimal", "none")},
}
PARQUET_BATCH = 1024


def raise_it(problem: Problem) -> NoReturn:
    """The default report: the first problem ends the reading."""
    raise UserError(problem)


def check_options(kind: str, options: dict[str, Any]) -> None:
    """Refuse `options:` that a format has no use for. Raises UserError at field `options`."""
    known = OPTIONS.get(kind, {})
    for name, value in options.items():
        field = f"options.{name}"
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            problem = Problem(f"a {kind} file {takes}", field=field, hint=did_you_mean(name, known))
            raise UserError(problem)
        choices = known[name]
        if choices is not None and value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UserError(Problem(f"{value!r} is not one of {', '.join(choices)}", field=field, hint=hint))
        if choices is None and (not isinstance(value, str) or len(value) != 1):
            raise UserError(Problem("must be one character", field=field))


def read_file(
    path: Path,
    name: str,
    options: dict[str, Any],
    report: Report = raise_it,
    byte_limit: int | None = None,
) -> Iterator[Record]:
    """The records of one file, with their lines. `name` is what problems call the file.

    Stops after about `byte_limit` bytes when given (a .json file is read whole or, if larger, not at all). What
    cannot be read goes to `report`; where that returns, reading goes on with the next record if there is one.
    """
    kind = format_of(path)
    assert kind is not None, "local_files keeps unknown formats out"
    if byte_limit is not None and kind == "json" and path.stat().st_size > byte_limit:
        return
    readers = {"json": _json, "jsonl": _jsonl, "csv": _csv, "tsv": _csv, "text": _text}
    count = 0

    def noted(problem: Problem) -> None:
        nonlocal count
        count += 1  # a file with something broken in it is not an empty one
        report(problem)

    try:
        if kind in ("parquet", "arrow"):
            records = _arrow(path, kind, byte_limit)
        else:
            lines = _lines(path, name, noted, byte_limit)
            records = readers[kind](lines, name, {**options, "kind": kind, "cut": byte_limit is not None}, noted)
        for record in records:
            count += 1
            yield record
    except (OSError, EOFError) as error:  # gzip.BadGzipFile is an OSError; a cut .gz ends in EOFError
        noted(Problem(f"cannot read the file ({error})", file=name))
    if count == 0:
        report(Problem("the file is empty", file=name))


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _lines(path: Path, name: str, report: Report, byte_limit: int | None) -> Iterator[tuple[int, str]]:
    """Numbered lines with their line ends, decoded as UTF-8, a byte order mark taken off."""
    left = sys.maxsize if byte_limit is None else byte_limit
    with _open(path) as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    report(Problem("the file is UTF-16", file=name, hint="save it as UTF-8"))
                    return
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                message = f"not valid UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line)"
                report(Problem(message, file=name, line=number, hint="save the file as UTF-8"))
            left -= len(raw)
            if left < 0:
                return


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _parse(text: str, name: str, line: int, report: Report) -> Any:
    """One JSON value, or None after a report."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        report(Problem(f"not valid JSON ({_why(error)})", file=name, line=line))
        return None
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a number")
        report(Problem(f"each line must be a JSON object, this one is {kind}", file=name, line=line))
        return None
    # "\ud83d" alone is legal JSON, but no character: it would break the tokenizer later, far from here.
    if "\\ud" in text.lower() and not _encodable(value):
        report(Problem("a broken character (half of a surrogate pair, such as \\ud83d alone)", file=name, line=line))
        return None
    return value


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _jsonl(lines: Iterator[tuple[int, str]], name: str, _: dict[str, Any], report: Report) -> Iterator[Record]:
    for number, text in lines:
        if not text.isspace():
            value = _parse(text, name, number, report)
            if value is not None:
                yield number, value


def _json(lines: Iterator[tuple[int, str]], name: str, _: dict[str, Any], report: Report) -> Iterator[Record]:
    """A list of objects; an object that holds one such list; or, as often met, JSON lines under this extension."""
    text = "".join(line for _, line in lines)
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return
    if text[start] == "[":
        yield from _json_list(text, start, name, report)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        extra = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        if extra or text.lstrip().partition("\n")[0].rstrip().endswith("}"):
            # split at \n alone: splitlines would cut at U+2028 as well, which JSON strings may hold.
            pieces = ((number, line + "\n") for number, line in enumerate(text.split("\n"), 1))
            yield from _jsonl(pieces, name, {}, report)
            return
        report(Problem(f"not valid JSON ({_why(error)})", file=name, line=getattr(error, "lineno", None)))
        return
    lists = [found for found in value.values() if isinstance(found, list)] if isinstance(value, dict) else []
    if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
        yield from ((None, row) for row in lists[0])
    elif isinstance(value, dict) and not any(isinstance(found, list | dict) for found in value.values()):
        yield 1, value  # one record
    else:
        hint = 'write [{…}, {…}], {"data": [{…}, …]}, or one object a line'
        report(Problem("must hold a list of objects", file=name, line=1, hint=hint))


def _json_list(text: str, start: int, name: str, report: Report) -> Iterator[Record]:
    """The objects of a JSON list one by one, so that each keeps its line."""
    decode = json.JSONDecoder().raw_decode
    blank = re.compile(r"[ \t\r\n]*")
    position = blank.match(text, start + 1).end()  # type: ignore[union-attr]
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decode(text, position)
        except (ValueError, RecursionError) as error:
            where = getattr(error, "lineno", line)
            report(Problem(f"not valid JSON ({_why(error)})", file=name, line=where))
            return
        if isinstance(value, dict):
            if "\\ud" in text[counted:position].lower() and not _encodable(value):
                report(Problem("a broken character (half of a surrogate pair)", file=name, line=line))
            else:
                yield line, value
        else:
            report(Problem("each element of the list must be an object", file=name, line=line))
        position = blank.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == ",":
            position = blank.match(text, position + 1).end()  # type: ignore[union-attr]
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            report(Problem("not valid JSON (',' or ']' expected)", file=name, line=line))
            return
    if not blank.fullmatch(text, position + 1):
        line += text.count("\n", counted, position)
        report(Problem("not valid JSON (text after the list)", file=name, line=line))


def _separator(header: str) -> str:
    """A csv file's separator by its header: a comma, or what spreadsheets write where the comma is a decimal point."""
    return "," if "," in header else max(",;\t|", key=header.count)


def _csv(lines: Iterator[tuple[int, str]], name: str, options: dict[str, Any], report: Report) -> Iterator[Record]:
    """Rows under a header line. All values are strings; a column without a name (a saved index) is left out."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # long documents in a cell are nothing unusual
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first], lines)
    delimiter = options.get("delimiter") or ("\t" if options["kind"] == "tsv" else _separator(first[1]))
    quoting: Literal[0, 3] = csv.QUOTE_NONE if options.get("quoting") == "none" else csv.QUOTE_MINIMAL
    last = 0

    def texts() -> Iterator[str]:
        nonlocal last
        for last, text in lines:  # noqa: B007
            yield text

    reader = csv.reader(texts(), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    while True:
        line = last + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if options["cut"] and "unexpected end" in str(error):
                return  # not the file's end, but that of what was to be read
            hint = "for a file without quotes: options: {quoting: none}" if quoting == csv.QUOTE_MINIMAL else None
            report(Problem(f"not valid {options['kind']} ({error})", file=name, line=line, hint=hint))
            return
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            twice = next((cell for cell in header if cell and header.count(cell) > 1), None)
            if twice is not None:
                report(Problem(f"column {twice} stands twice in the header", file=name, line=line))
                return
        elif len(cells) != len(header):
            message = f"{len(cells)} fields, but the header has {len(header)}"
            report(Problem(message, file=name, line=line))
        else:
            yield line, {column: cell for column, cell in zip(header, cells, strict=True) if column}


def _text(lines: Iterator[tuple[int, str]], _: str, options: dict[str, Any], __: Report) -> Iterator[Record]:
    """{"text": …} a line, a paragraph (blank lines between) or the whole document; blank lines are no documents."""
    sample_by = options.get("sample_by", "line")
    if sample_by == "document":
        text = "".join(line for _, line in lines)
        if text:
            yield 1, {"text": text}
        return
    held: list[str] = []
    first = 1
    for number, line in lines:
        if sample_by == "line":
            if not line.isspace():
                yield number, {"text": line.rstrip("\r\n")}
        elif not line.isspace():
            first = number if not held else first
            held.append(line)
        elif held:
            yield first, {"text": "".join(held).rstrip("\r\n")}
            held = []
    if held:
        yield first, {"text": "".join(held).rstrip("\r\n")}


def _arrow(path: Path, kind: str, byte_limit: int | None) -> Iterator[Record]:
    """Rows of a parquet file, or of an arrow file as `datasets` writes it (`save_to_disk`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    left = sys.maxsize if byte_limit is None else byte_limit
    try:
        if kind == "parquet":
            batches = pq.ParquetFile(path).iter_batches(batch_size=PARQUET_BATCH)
        else:
            batches = iter(pa.ipc.open_stream(path))
        for batch in batches:
            yield from ((None, row) for row in batch.to_pylist())
            left -= batch.nbytes
            if left < 0:
                return
    except pa.ArrowException as error:
        raise OSError(f"not a {kind} file: {str(error).splitlines()[0]}") from None
