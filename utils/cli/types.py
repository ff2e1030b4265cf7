"""What the values of flags may be: types and actions for argparse."""

import argparse
import math
from collections.abc import Callable
from typing import Any


def number(
    kind: type, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> Callable:
    """Make an argparse type: a finite number of `kind` in [low, high], bounds left out if open."""

    def parse_number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {word}") from error
        too_low = value <= low if open_low else value < low
        too_high = value >= high if open_high else value > high
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond all floats
            finite = False
        if too_low or too_high or not finite:
            left, right = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
            raise argparse.ArgumentTypeError(f"{text} is out of range: {left}{low}, {high}{right} is allowed")
        return value

    return parse_number


def path(text: str) -> str:
    """Parse a path (an argparse type); an empty one, which a variable that is not set gives, is refused.

    So is one in an old encoding, which neither log.txt nor TensorBoard can take.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(
            f"the path {text!a}, or the locale, is not UTF-8: rename it, or set LC_ALL=C.UTF-8"
        ) from error
    return text


AMP = ("off", "bf16", "fp16")  # choices of --amp, the keys of utils.device.PRECISIONS
# no machine has as much as these, and far more overflows in torch
MOST, MOST_PIXELS, MOST_DIMS = 2**31 - 1, 2**16, 2**20
count = number(int, 1, MOST)
count_or_zero = number(int, 0, MOST)
epochs = number(int, 1, 10**5)  # the learning rate of each is looked at before the first
pixels = number(int, 1, MOST_PIXELS)  # of a side
pixels_or_zero = number(int, 0, MOST_PIXELS)
dims = number(int, 1, MOST_DIMS)
seed = number(int, 0, 2**63 - 1)
seconds = number(int, 1, 10**9)  # a socket takes few more
positive = number(float, 0, open_low=True)
non_negative = number(float, 0)
unit_open_high = number(float, 0, 1, open_high=True)
scale = number(float, 0, MOST, open_low=True)
variance = number(float, 1e-4, 1e4)
sigma = number(float, 0.01, 100.0)


def milestones(text: str) -> list[int]:
    """Parse whole numbers with commas between them (an argparse type)."""
    return [count(part) for part in text.split(",")]


class Milestones(argparse.Action):
    """`--milestones 30,60` or `--milestones 30 60`: rising epochs."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: Any = None):
        epochs = [epoch for part in values for epoch in part]
        if epochs != sorted(set(epochs)):
            parser.error(f"argument {flag}: {epochs} do not rise")
        setattr(namespace, self.dest, epochs)
