#!/usr/bin/env python3
"""Write the Fashion-MNIST tables and figures from the results, or see whether they still say what the results say.

    python scripts/claim.py            fill in the tables of all documents, and draw the figures in fig/
    python scripts/claim.py --check    change nothing; the exit status is 1 if a table or a figure is another
    python scripts/claim.py --results=results/mine    write TABLES.md and the figures there, and nothing else

A document has a table between two lines, `<!-- table NAME -->` and `<!-- /table -->`; documents are README.md, those
in docs/ and TABLES.md beside the results. What that says between `<!-- remark -->` and `<!-- /remark -->` is of the
published results alone, and left out for others. The numbers are means over subsets with their standard deviation; rows
that have not all their subsets yet say so.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image

from scripts.experiments.drawing import DIGEST, FIGURES, digest, draw
from scripts.experiments.tables import TABLES
from utils.cli.common import Parser
from utils.cli.types import path
from utils.errors import UserError, run_script
from utils.files import write_text

PUBLISHED, TABLES_FILE = "results/fashion_mnist_lt", "TABLES.md"
BLOCK = re.compile(r"<!-- table (?P<name>[\w ]+) -->\n.*?<!-- /table -->", re.DOTALL)
REMARK = re.compile(r"<!-- remark -->\n.*?<!-- /remark -->\n", re.DOTALL)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--results", type=path, default=PUBLISHED, metavar="PATH", help="default: %(default)s")
    add("--check", action="store_true", help="say what is not as the results say, and write nothing")
    return parser


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Fill in documents and figures below `root`, or check them; 1 if one is not as it should be."""
    options = build_parser().parse_args(argv)
    published, results = (root / PUBLISHED).resolve(), (root / options.results).resolve()
    tables, wrong = results / TABLES_FILE, []
    if not results.is_dir():
        raise UserError(f"--results {options.results}: there is no such folder")
    if not tables.exists():
        if results == published:
            raise UserError(f"{tables} is missing: git checkout {PUBLISHED}/{TABLES_FILE}")
        if options.check:
            wrong.append(tables)
        else:
            write_text(tables, REMARK.sub("", (published / TABLES_FILE).read_text(encoding="utf-8")))
    figures = root / "fig" if results == published else results
    for document in documents(root, results):
        text = document.read_text(encoding="utf-8")
        written = filled_in(text, document, results)
        if written != text:
            wrong.append(document)
            if not options.check:
                write_text(document, written)
    for name, (gather, plot) in FIGURES.items():
        curves, figure = gather(results), figures / name
        if curves and shown_in(figure) != digest(curves):
            wrong.append(figure)
            if not options.check:
                draw(figure, curves, plot)
    for changed in wrong:
        print(
            f"{'differs from the results' if options.check else 'written'}: {os.path.relpath(changed, root.resolve())}"
        )
    return 1 if wrong and options.check else 0


def documents(root: Path, results: Path) -> list[Path]:
    """List the documents that may hold tables: of the published results all, of others their own alone."""
    published = (
        [root / "README.md", *sorted((root / "docs").glob("*.md"))] if results == (root / PUBLISHED).resolve() else []
    )
    found = [*published, results / TABLES_FILE]
    return [document for document in found if document.exists()]


def filled_in(text: str, document: Path, results: Path) -> str:
    """Fill in the tables of a text.

    Raises:
        UserError: it names a table that there is not.
    """

    def table(block: re.Match[str]) -> str:
        name = block["name"]
        if name not in TABLES:
            raise UserError(f"{document} wants the table {name!r}: there are {', '.join(TABLES)}")
        return f"<!-- table {name} -->\n{TABLES[name](results)}\n<!-- /table -->"

    return BLOCK.sub(table, text)


def shown_in(figure: Path) -> str | None:
    """Read the digest of the numbers that a figure shows; None if there is no figure, or a damaged one."""
    try:
        with Image.open(figure) as image:
            image.load()
            return image.info.get(DIGEST)
    except (OSError, SyntaxError):  # the second of a damaged PNG
        return None


if __name__ == "__main__":
    run_script(lambda: sys.exit(main()))
