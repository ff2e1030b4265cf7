"""Lists and tables in text files: every mark, line end, separator and repetition that people's files have."""

import pytest

from datasets.tables import count_of, one_label_each, read_names, read_table, read_text, repeated
from utils.errors import UserError

LINES = ["name,label", "a.png,Mass", "ä.png,Nodule"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old macOS"])
@pytest.mark.parametrize("final", [True, False])
def test_text_is_read_over_marks_and_line_ends(encoding, newline, final, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes((newline.join(LINES) + newline * final).encode(encoding))
    assert read_text(path, "-").split("\n")[:3] == LINES
    assert read_names(path, "-") == LINES
    header, *rows = [line.split(",") for line in LINES]
    assert read_table(path, "-") == (header, list(enumerate(rows, start=2)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a.png".encode("utf-16"), "it is UTF-16"),
        ("\ufeffa.png".encode("utf-16-be"), "it is UTF-16"),
        ("a.png".encode("utf-16-le"), "it is UTF-16 without a mark, or no text"),
        ("a.png".encode("utf-32"), "it is UTF-32"),
        ("ä.png".encode("latin-1"), "byte 0 is not UTF-8"),
        (b"\x1f\x8b\x08\0\0", "it is UTF-16 without a mark, or no text"),
    ],
    ids=["utf-16", "big-endian", "no mark", "utf-32", "latin-1", "gzip"],
)
def test_another_encoding_is_named_with_the_file(content, says, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    for read in (read_text, read_names, read_table):
        with pytest.raises(UserError) as error:
            read(path, "get another")
        assert str(error.value) == f"{path} cannot be read ({says}): save it as UTF-8, or get another"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be read \(Is a directory\): get it"):
        read_text(tmp_path, "get it")


def test_names_are_lines_without_the_blanks_around_them(tmp_path):
    (tmp_path / "list.txt").write_text("\n a.png \n\nname with blanks.png\t\n")
    assert read_names(tmp_path / "list.txt", "-") == ["a.png", "name with blanks.png"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table_may_have_any_delimiter(delimiter, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f'\nname{delimiter}label\n"a{delimiter}1"{delimiter}Mass\n\nb{delimiter}\n')
    assert read_table(path, "-") == (["name", "label"], [(3, [f"a{delimiter}1", "Mass"]), (5, ["b", ""])])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quoted_cells_may_follow_a_blank_and_the_table_the_mark_of_excel(delimiter, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f'sep={delimiter}\nname{delimiter} label\n"a{delimiter}1"{delimiter} "Mass"\n')
    assert read_table(path, "-") == (["name", "label"], [(2, [f"a{delimiter}1", "Mass"])])


def test_signs_within_a_quoted_name_do_not_part_the_columns(tmp_path):
    (tmp_path / "table.csv").write_text('path,label,"age; sex; history"\na.png,cat,"1; f; none"\n')
    assert read_table(tmp_path / "table.csv", "-").header == ["path", "label", "age; sex; history"]


def test_what_is_no_table_is_named(tmp_path):
    (tmp_path / "table.csv").write_text('"' + "x" * 200_000)
    with pytest.raises(UserError, match=r"table.csv, row 1, cannot be read \(unexpected end.*\).* or replace it"):
        read_table(tmp_path / "table.csv", "replace it")


@pytest.mark.parametrize("row", ['b,"5 inch', 'b,"5 inch" nail'], ids=["to the end", "to a quote"])
def test_quote_that_is_not_closed_swallows_no_row(row, tmp_path):
    (tmp_path / "table.csv").write_text(f"name,remark\na,\n{row}\nc,\n")
    with pytest.raises(UserError, match=r'table.csv, row 3, cannot be read .*: is a quote \("\) not closed'):
        read_table(tmp_path / "table.csv", "replace it")


def test_table_without_a_row(tmp_path):
    (tmp_path / "table.csv").write_text("\n\n")
    assert read_table(tmp_path / "table.csv", "-") == ([], [])


def test_repeated_names():
    assert repeated(["b", "a", "b", "c", "a", "b"]) == ["b", "a"]


def test_a_name_may_have_one_label_twice_but_never_two(tmp_path):
    rows = [("a", "Mass"), ("b", "Nodule"), ("a", "Mass")]
    assert one_label_each(rows, tmp_path) == {"a": "Mass", "b": "Nodule"}
    with pytest.raises(UserError, match=rf"{tmp_path} gives 1 image \(b\) two labels, b 'Nodule' and 'Mass': keep one"):
        one_label_each([*rows, ("b", "Mass"), ("b", "Hernia")], tmp_path)


@pytest.mark.parametrize(
    ("count", "says"), [(1, "1 file (0)"), (3, "3 files (0, 1, 2)"), (4, "4 files (0, 1, 2, ...)")]
)
def test_count_of(count, says):
    assert count_of(map(str, range(count)), "file") == says
