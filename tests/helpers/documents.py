"""The pages and scripts that show commands, and the commands they show."""

import re
import shlex

from datasets import DATASETS
from helpers.project import ROOT

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DOCUMENTS = [
    *PAGES,
    *("train.py", "augment.py", "augment_ftl.py"),
    *(f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.sh") if path.name != "recipe.sh"),
]
TRAINING = ("train", "augment", "augment_ftl")  # their first word is a data set


def program(name: str) -> str:
    """Give the file of a module, relative to the project: scripts/compare.py for scripts.compare."""
    path = name.replace(".", "/")
    return f"{path}/__main__.py" if (ROOT / path).is_dir() else f"{path}.py"


def commands(document: str) -> list[list[str]]:
    """List every `python ...` and `torchrun ...` of a document that runs a file of this project.

    Line continuations are joined, and the variables of the shell scripts are filled in.

    Returns:
        For each the name of the module, `train` or `scripts.compare`, and its arguments.
    """
    text = re.sub(r"\\+\n\s*", " ", (ROOT / document).read_text())
    for variable, value in (
        ('"$script"', "augment.py"),
        ('"$seed"', "0"),
        ('"$run"', "./run"),
        ('"${overwrite[@]}"', "--overwrite"),
        ('"${stages[@]}"', "tune"),
        ('"${JOBS:-2}"', "2"),
        ('"${start[@]}"', "--pretrained"),
        ('"$results"', "./mine"),
        ('"$@"', ""),
        ('"${@:3}"', ""),
    ):
        text = text.replace(variable, value)
    margin = " {4}" if document.endswith(".md") else r"\s*"  # of a code block in Markdown
    start = rf"^{margin}(?:[A-Z_]+=\S+ )*(?:run |exec )?(?:torchrun (?:-\S+ )*|python (?:-m )?)(?:\./)?"
    found = re.findall(rf"{start}((?:train|augment|augment_ftl|predict|scripts|datasets|fig)\b\S*)(.*)$", text, re.M)
    lines = []
    for path, rest in found:
        words = shlex.split(rest.partition(" || ")[0], comments=True)
        name = path.removesuffix(".py").replace("/", ".")
        if name in TRAINING and (not words or words[0] not in DATASETS):
            words = ["Digits_LT", *words]  # a script that leaves the data set to its caller
        lines.append([name, *words])
    return lines


def replaced(argv: list[str], **flags: str) -> list[str]:
    """Give the same command with other values for some flags, spelt as they were."""
    out = []
    for word in argv:
        name = word.split("=")[0].lstrip("-")
        out.append(f"--{name}={flags.pop(name)}" if name in flags else word)
    assert not flags
    return out
