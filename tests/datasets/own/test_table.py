"""CSV: a table of one's own images, as people have them, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.loading import BatchLoader, TrainBatches
from datasets.splits import load_splits, load_test, preprocessing_of
from helpers.data import data_args
from utils.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images in a folder, of which any table can be made."""
    (tmp_path / "data/sub").mkdir(parents=True)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"data/sub/{number}.png")
    return tmp_path / "data"


def load(root: Path, text: str, **options: object):
    (root / "labels.csv").write_text(text)
    return load_splits(data_args("CSV", root, csv="labels.csv", **options), augment=False)


def table(*rows: tuple[object, ...], header: str = "path,label,split") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)])


SPLIT = [(f"sub/{n}.png", "ab"[n % 2], "train" if n < 8 else "test") for n in range(12)]


def test_labels_and_splits_are_those_of_the_rows_in_the_order_of_the_paths(data):
    splits = load(data, table(*SPLIT[::-1]))
    assert splits.train.ids.tolist() == [f"sub/{n}.png" for n in range(8)]
    assert splits.train.targets.tolist() == [n % 2 for n in range(8)]
    assert len(splits.test) == 4
    assert splits.train[0][0].shape == (3, 28, 28)


@pytest.mark.parametrize("header", ["path,label,split", "path,label"])
def test_table_that_was_sorted_anew_has_the_same_splits(header, data):
    rows = [row[: 1 + header.count(",")] for row in SPLIT]
    first, again = (load(data, table(*some, header=header)) for some in (rows, rows[::-1]))
    assert again.fingerprints() == first.fingerprints()


@pytest.mark.parametrize("header", ["File,LABEL,Split", "image;label;split", "id\tlabel\tsplit\tpath"])
def test_spellings_of_the_columns(header, data):
    sign = next(sign for sign in ";\t," if sign in header)
    rows = [(f"./{path}", label, {"train": "Training"}.get(part, part)) for path, label, part in SPLIT]
    rows = [("x", label, part, path) for path, label, part in rows] if "id" in header else rows
    assert len(load(data, "\n".join([header, *(sign.join(row) for row in rows)])).train) == 8


def test_doubtful_labels_are_said(data, caplog):
    labels = ["NaN", "1", "1.0", "1|NaN"]
    splits = load(data, table(*((f"sub/{n}.png", labels[n % 4], "train" if n < 8 else "test") for n in range(12))))
    assert splits.train.classes == ("1", "1.0", "1|NaN", "NaN")
    start = f"{data / 'labels.csv'}: "
    assert [message.removeprefix(start) for message in caplog.messages] == [
        "label 'NaN' is a class of 3 images: if it stands for a missing label, leave the cell empty",
        "1 label (1|NaN): other labels joined by '|'? An image has one label, and each of these is a class of its own",
        "labels '1' and '1.0' are one number and two classes: write it alike",
    ]


@pytest.mark.parametrize("label", ["nan", "NA", "N/A", "#N/A", "NULL", "None"])
def test_label_that_a_program_writes_for_a_missing_one_is_doubted(label, data, caplog):
    load(data, table(*((path, label if own == "b" else own, part) for path, own, part in SPLIT)))
    (told,) = (message for message in caplog.messages if "leave the cell empty" in message)
    assert f"label {label!r} is a class of 6 images" in told


@pytest.mark.parametrize("sign", ["|", ";", ","])
def test_labels_that_are_joined_are_doubted(sign, data, caplog):
    labels = ["a", "b", f'"a{sign} b"']
    load(data, table(*((path, labels[number % 3], part) for number, (path, _, part) in enumerate(SPLIT))))
    assert f"1 label (a{sign} b): other labels joined by {sign!r}?" in caplog.text


def test_group_that_a_program_writes_for_a_missing_one_is_doubted(data, caplog):
    rows = [(*row, ["NA", "p1"][number % 2] if number < 8 else f"q{number}") for number, row in enumerate(SPLIT)]
    load(data, table(*rows, header="path,label,split,group"))
    says = "group 'NA' is one of 4 images: if it stands for a missing group, leave the cell empty"
    assert caplog.messages == [f"{data / 'labels.csv'}: {says}"]


def test_link_that_leads_nowhere_is_an_image_that_is_not_found(data):
    (data / "sub/1.png").unlink()
    (data / "sub/1.png").symlink_to("/nowhere/1.png")
    with pytest.raises(UserError, match=r"1 image \(sub/1.png\) of 12 listed not found"):
        load(data, table(*SPLIT))


def test_labels_whose_accents_are_stored_in_two_forms_are_told(data, caplog):
    labels = ["caf\u00e9", "cafe\u0301"]
    rows = [(path, labels[number % 2], part) for number, (path, _, part) in enumerate(SPLIT)]
    load(data, table(*rows))
    assert f"differ in case only: {labels[1]}, {labels[0]} ('cafe\\u0301' and 'caf\\xe9': the accent is" in caplog.text
    with pytest.raises(UserError, match=f"occurs in test only, .*, train has '{labels[0]}' .*: put training"):
        load(data, table(*((path, labels[0] if n < 8 else own, part) for n, (path, own, part) in enumerate(rows))))


def test_absolute_paths_and_a_table_elsewhere(data, tmp_path):
    (tmp_path / "table.csv").write_text(table(*((data / path, *rest) for path, *rest in SPLIT)))
    splits = load_splits(data_args("CSV", data, csv=str(tmp_path / "table.csv")))
    assert splits.train.ids[0] == "sub/0.png"


def test_two_names_of_one_file_are_one_image(data):
    (data / "link.png").symlink_to(data / SPLIT[0][0])
    says = r"0.png and link.png are one file \(a link\): an image has one class, one part and one group"
    with pytest.raises(UserError, match=says):
        load(data, table(*SPLIT, ("link.png", SPLIT[0][1], "test")))


def test_without_splits_a_part_is_drawn_and_no_group_is_on_two_sides(data):
    rows = [(f"sub/{n}.png", "ab"[n % 2], f"patient{n // 4}" if n < 8 else "") for n in range(12)]
    splits = load(data, table(*rows, header="path,label,group"), val_fraction=0.3)
    groups = {name: group or name for name, _, group in rows}
    sides = [{groups[name] for name in part.ids} for part in splits]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 6
    assert sum(map(len, splits)) == 12


def test_validation_rows_are_measured_and_do_not_train(data):
    rows = [(path, label, "val" if n in (6, 7) else part) for n, (path, label, part) in enumerate(SPLIT)]
    splits = load(data, table(*rows))
    assert splits.measured[0] == "val"
    assert [len(part) for part in splits] == [6, 2, 4]


def test_rows_that_are_not_measured_may_lack_their_images(data):
    lost = [("gone.png", "a", "train"), ("gone too.png", "b", "val")]
    (data / "labels.csv").write_text(table(*SPLIT[8:], *lost))
    args = data_args("CSV", data, csv="labels.csv")
    preprocessing = preprocessing_of({"dataset": "CSV", "args": vars(args)})
    assert load_test(args, ("a", "b"), preprocessing).ids.tolist() == sorted(path for path, *_ in SPLIT[8:])
    (data / "labels.csv").write_text(table(*((path, label, "val") for path, label, _ in SPLIT[8:]), lost[0]))
    assert len(load_test(args, ("a", "b"), preprocessing)) == 4


def test_labels_may_be_numbers_of_any_length(data):
    long = "9" * 5_000
    rows = [(path, {"a": long, "b": "0010"}[label], part) for path, label, part in SPLIT]
    assert load(data, table(*rows)).train.classes == ("0010", long)


def test_column_that_is_not_read_may_be_long_and_its_name_have_commas(data):
    rows = [";".join([path, label, "x" * 200_000]) for path, label, _ in SPLIT]
    splits = load(data, "\n".join(["path;label;what the doctors wrote (a, b, c, d)", *rows]))
    assert splits.train.classes == ("a", "b")


def test_what_is_odd_is_told(data, caplog):
    grouped = [(*row, f"g{number % 11}") for number, row in enumerate(SPLIT)]  # the first and the last are of one
    odd = [grouped[3], ("sub/./3.png", *grouped[3][1:]), ("", "a", "train", ""), ("sub/0.png",)]
    text = table(*grouped, *odd, header="path,label,split,group")
    assert len(load(data, text).train) == 8
    assert [m.split("labels.csv")[-1] for m in caplog.messages] == [
        ": left out 2 rows (row 16, row 17) without a path or a label",
        ": 1 image (sub/3.png) named more than once, and used once",
        "1 image (sub/11.png) of 4 in the test split are of groups (patients) that training has too, 0 of them are in "
        "both lists: what is measured on them is too good, mend the lists",
    ]


def test_patients_of_the_validation_that_the_test_has_too_are_told(data, caplog):
    parts = ["train"] * 8 + ["val", "val", "test", "test"]
    rows = [(f"sub/{n}.png", "ab"[n % 2], part, f"g{min(n, 9)}") for n, part in enumerate(parts)]
    load(data, table(*rows, header="path,label,split,group"))
    (said,) = (message for message in caplog.messages if "groups" in message)
    assert said.startswith(
        "2 images (sub/10.png, sub/11.png) of 2 in the test split are of groups (patients) that the "
    )
    assert "that the validation set has too, 0 of them are in both lists" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column path or file or image, but nothing: name the column so"),
        (table(*SPLIT, header="path,class,split"), "has no column label, but path, class, split"),
        (table(*SPLIT, header="x,label,split"), "has no column path or file or image, but x, label, split"),
        (table(*SPLIT, ("sub/3.png", "a", "train")), "gives sub/3.png two labels, 'b' and 'a': keep one row"),
        (table(*SPLIT, header="path,label,split,Label"), "has two columns label: rename one of them"),
        (
            table(*((name, label, "test") for name, label, _ in SPLIT)),
            "no training image in .*: give some rows the split",
        ),
        (table(*SPLIT, ("sub", "a", "train")), r"1 image \(sub\) of [0-9]+ listed not found in .*: sub is a folder"),
        (table(*SPLIT, ("sub/3.png", "b", "test")), "gives sub/3.png two splits, 'train' and 'test'"),
        (table(*SPLIT, ("../x.png", "a", "train")), r"row 14: ../x.png lies outside of --datadir"),
        (table(*SPLIT, ("/etc/x.png", "a", "train")), r"row 14: /etc/x.png lies outside of --datadir"),
        (
            table(*SPLIT, ("sub/x.png", "a", "train")),
            r"1 image \(sub/x.png\) of 13 listed not found in .*: check",
        ),
        (table(*SPLIT, ("sub/3.png", "b", "fold3")), "row 14: split 'fold3' is none of train, val, test"),
        (table(*SPLIT, ("sub/3.png", "b", "")), "row 14: split '' is none of train, val, test"),
        (table(*SPLIT[:10], ("sub/11.png", "c", "test")), r"label 'c' occurs in test only, 1 image \(sub/11.png\)"),
        (table(*((path, "a", part) for path, _, part in SPLIT)), "has one class, 'a': two at least"),
        (table(*((path, label, "test") for path, label, _ in SPLIT)), "has no training image"),
        (table(*SPLIT, ("sub/3.png", "b", "train", "c")), "row 14: it has more cells than the header: quote what has"),
        (table(), "labels.csv names no image: give it a row for each"),
        (
            table(('"sub/0.png', "a", "train"), *SPLIT),
            r"labels.csv, row 2, cannot be read \(unexpected end of data\): is a quote \(\"\) not closed",
        ),
        (
            table(*SPLIT, ('"sub/x.png', "a", "train"), ('sub/y.png"', "a", "train")),
            r"row 14: its path goes over several lines: is a quote \(\"\) not",
        ),
        (
            table(*SPLIT, ("sub/x.png", '"a', "train"), ("sub/y.png", 'a"', "train")),
            r"row 14: its label goes over several lines: is a quote \(\"\) not",
        ),
        (
            table(*SPLIT, ("sub/x.png", "a", '"5 inch'), ("sub/y.png", '"a"', "train")),
            r"row 14, cannot be read \(.*\): is a quote \(\"\) not closed",
        ),
        (
            table(*((path.replace("/", "\\"), *rest) for path, *rest in SPLIT)),
            r"not found in .*: write / for \\ in the",
        ),
        (table(*((path, label, "p") for path, label, _ in SPLIT), header="path,label,group"), "or part a group; add"),
    ],
)
def test_bad_table_is_one_line(text, says, data):
    with pytest.raises(UserError, match=says) as caught:
        load(data, text)
    assert "\n" not in str(caught.value)


def test_accents_stored_in_another_form_are_told(data):
    (data / "sub/0.png").rename(data / "sub/\u00e9.png")
    with pytest.raises(UserError, match="the files' names store accents in another form"):
        load(data, table(("sub/e\u0301.png", "a", "train"), *SPLIT[1:]))


def test_table_that_is_not_there_is_named(data):
    with pytest.raises(UserError, match=r"none.csv cannot be read \(No such file or directory\): name the table"):
        load_splits(data_args("CSV", data, csv="none.csv"))


@pytest.mark.parametrize("kind", ["shift", "none"])
def test_batches_of_a_drawn_subset_written_out_are_the_same(kind, tmp_path):
    """Bit for bit, grey and in three equal channels; 8 pixels become 32 by a whole factor in both."""
    digits = load_splits(data_args("Digits_LT", train_transform=kind), augment=False)
    rows = []
    for part, name in ((digits.train, "train"), (digits.test, "test")):
        for index, row in enumerate(part.rows):
            path = f"{part.ids[index].replace('/', '_')}.png"
            part.read(int(row)).save(tmp_path / path)
            rows.append((path, part.targets[index], name))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    args = data_args("CSV", tmp_path, csv="labels.csv", train_transform=kind)
    sides = [load_splits(each).train for each in (data_args("Digits_LT", train_transform=kind), args)]
    assert sides[0].classes == sides[1].classes
    loaders = [BatchLoader(side, TrainBatches(len(side), 32, seed=5), 0, False) for side in sides]
    for (grey, *rest), (colour, *others) in zip(*loaders, strict=True):
        assert torch.equal(grey.expand(-1, 3, -1, -1), colour)
        assert all(torch.equal(one, other) for one, other in zip(rest, others, strict=True))


def test_validation_images_of_patients_that_training_has_are_told(data, caplog):
    parts = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    rows = [(f"sub/{n}.png", "ab"[n % 2], part, f"g{n % 6 if part == 'val' else n}") for n, part in enumerate(parts)]
    load(data, table(*rows, header="path,label,split,group"))
    told = "3 images (sub/6.png, sub/7.png, sub/8.png) of 3 in the validation split are of groups (patients) that"
    assert [told in message for message in caplog.messages] == [True]


def test_empty_cells_after_the_last_column_are_no_fault(data):
    """As a spreadsheet leaves them."""
    rows = [(f"sub/{n}.png", "ab"[n % 2], "", "") for n in range(12)]
    splits = load(data, table(*rows, header="path,label"))
    assert len(splits.train) + len(splits.test) == 12


def test_folder_whose_name_begins_with_dots_is_inside(data):
    (data / "sub").rename(data / "..photos")
    splits = load(data, table(*((f"..photos/{n}.png", "ab"[n % 2]) for n in range(12)), header="path,label"))
    assert len(splits.train) > 0


def test_table_of_the_current_folder_comes_before_that_beside_the_images(data, tmp_path, monkeypatch):
    for folder, labels in ((tmp_path, "ab"), (data, "cd")):
        (folder / "t.csv").write_text(table(*((f"sub/{n}.png", labels[n % 2]) for n in range(12)), header="path,label"))
    monkeypatch.chdir(tmp_path)
    assert load_splits(data_args("CSV", data, csv="t.csv")).train.classes == ("a", "b")
