"""Lists of names and tables in text files as people have them: saved by any editor, joined, edited by hand."""

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

# UTF-32 before UTF-16, whose mark it begins with
FOREIGN_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
DELIMITERS = ",;\t"  # the last two: spreadsheets, by the country that they are set to
SHOWN = 3  # names in a message
PATH_COLUMNS = ("path", "file", "image")  # of a table of images, the first of them that is there


def read_text(path: Path, remedy: str) -> str:
    r"""Read a UTF-8 text, with a byte order mark or without, whatever its lines end in: here they end in \n.

    Args:
        path: the file.
        remedy: what to do about a file that cannot be read, for the message.

    Raises:
        UserError: it is missing, in another encoding, or no text; says which.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    foreign = next((name for mark, name in FOREIGN_MARKS.items() if content.startswith(mark)), None)
    if foreign is None and b"\0" in content:
        foreign = "UTF-16 without a mark, or no text"
    if foreign:
        raise UserError(f"{path} cannot be read (it is {foreign}): save it as UTF-8, or {remedy}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        raise UserError(f"{path} cannot be read ({what}): save it as UTF-8, or {remedy}") from error
    return io.StringIO(text, newline=None).read()


def read_names(path: Path, remedy: str) -> list[str]:
    """Read a list with a name on each line, without the blanks around it; empty lines are left out.

    Raises:
        UserError: as `read_text`.
    """
    return [name for line in read_text(path, remedy).split("\n") if (name := line.strip())]


class Table(NamedTuple):
    """The cells of a CSV file.

    Attributes:
        header: of the first row that is not empty; [] where there is none.
        rows: those after it that are not empty, each with its number as a spreadsheet shows it, from 1.
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]


def read_table(path: Path, remedy: str) -> Table:
    """Read a CSV file; its first line that is not empty tells comma, semicolon or tab.

    Raises:
        UserError: as `read_text`, or it is no table: a quote is not closed, or a cell goes on after one.
    """
    text = read_text(path, remedy)
    first, _, rest = text.partition("\n")
    if first.lower() in {f"sep={sign}" for sign in DELIMITERS}:  # of Excel, which shows it in no row
        text = rest
    header = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0])  # what is quoted may have any of them in it
    delimiter = max(DELIMITERS, key=lambda sign: (_has_path_column(header.split(sign)), header.count(sign)))
    csv.field_size_limit(2**31 - 1)  # bytes of a cell; else a longer text in a column that nobody reads is an error
    # not strict, a quote swallows what follows it
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, number = [], 0
    try:
        for number, row in enumerate(reader, start=1):
            if row:
                rows.append((number, row))
    except csv.Error as error:
        raise UserError(
            f'{path}, row {number + 1}, cannot be read ({error}): is a quote (") not closed? Mend it, or {remedy}'
        ) from error
    return Table(rows[0][1], rows[1:]) if rows else Table([], [])


def _has_path_column(names: Sequence[str]) -> bool:
    return not column_numbers(names).keys().isdisjoint(PATH_COLUMNS)


def has_more_cells(header: Sequence[str], row: Sequence[str]) -> bool:
    """Tell whether something stands in a row beyond the columns, as after a comma that is not quoted."""
    return any(cell.strip() for cell in row[len(header) :])


def column_numbers(header: Sequence[str]) -> dict[str, int]:
    """Give the number of each column by its name in small letters; of two columns of one name that of the first."""
    return {name.strip().lower(): number for number, name in reversed(list(enumerate(header)))}


def require_column(header: Sequence[str], names: Sequence[str], source: Path) -> str:
    """Return the first of some columns that a table has; raise a `UserError` if it has none of them."""
    columns = column_numbers(header)
    found = next((name for name in names if name in columns), None)
    if found is None:
        there = ", ".join(header) or "nothing"
        raise UserError(f"{source} has no column {' or '.join(names)}, but {there}: name the column so")
    return found


def repeated(names: Iterable[str]) -> list[str]:
    """List the names that occur more than once, in the order of their first places."""
    return [name for name, count in Counter(names).items() if count > 1]


def one_label_each(rows: Iterable[tuple[str, str]], source: Path) -> dict[str, str]:
    """Make name -> label of rows in which a name may occur again with the same label.

    Raises:
        UserError: a name has two labels; which of them is right, nobody but the user knows.
    """
    labels: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, label in rows:
        if labels.setdefault(name, label) != label:
            others.setdefault(name, label)
    if others:
        name, other = next(iter(others.items()))
        raise UserError(
            f"{source} gives {count_of(others, 'image')} two labels, {name} {labels[name]!r} and {other!r}: keep one "
            "row of each"
        )
    return labels


def in_another_form(names: Iterable[str], others: Iterable[str]) -> str:
    """Say which name is another one but for how an accent is stored, which nobody sees; '' where none is."""
    known = {unicodedata.normalize("NFC", other): other for other in others}
    for name in names:
        other = known.get(unicodedata.normalize("NFC", name), name)
        if other != name:
            return f" ({name!a} and {other!a}: the accent is stored in two forms, Unicode NFC and NFD)"
    return ""


def count_of(names: Iterable[str], thing: str, things: str | None = None) -> str:
    """Say how many things there are, and the first few: '5 images (a, b, c, ...)'.

    Args:
        names: of them.
        thing, things: the word for one and for several; default: with an s.
    """
    names = list(names)
    shown = ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {thing if len(names) == 1 else things or thing + 's'} ({shown})"
