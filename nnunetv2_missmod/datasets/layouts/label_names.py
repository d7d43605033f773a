"""Labels as a user names them, turned into what nnU-Net's dataset.json demands of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from nnunetv2_missmod.datasets.layouts.source import LabelScheme

BACKGROUND, IGNORE = "background", "ignore"
Values = tuple[int, ...]


def parse_labels(texts: Sequence[str]) -> dict[str, Values]:
    """Read NAME=VALUE or NAME=VALUE,VALUE,...: the values that a label has in the source's files.

    Raises:
        ValueError: it is something else, or a name is there twice.
    """
    labels: dict[str, Values] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        numbers = [value.strip() for value in values.split(",")]
        if not name or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise ValueError(
                f"Expected labels as NAME=VALUE or NAME=VALUE,VALUE with whole numbers, such as core=1,4, got {text!r}."
            )
        if name in labels:
            raise ValueError(
                f"Expected labels of different names, got {name} twice: write {name}=1,2 for several values."
            )
        labels[name] = tuple(dict.fromkeys(int(number) for number in numbers))
    return labels


def scheme_of(labels: Mapping[str, Values]) -> LabelScheme:
    """Number the labels from 1 without gaps, as nnU-Net demands.

    Labels of one value each stay plain labels. Where one has several, or two share a value, all become regions: each
    value of the source gets a number, and the larger region comes first. The values of ``ignore`` become nnU-Net's
    ignore label, those of ``background`` 0, which is background anyhow.

    Args:
        labels: the values of each label, in the source's files.

    Raises:
        ValueError: a value is both background or ignored and something else, or regions overlap without being nested.
    """
    background = (0, *labels.get(BACKGROUND, ()))
    ignored = labels.get(IGNORE, ())
    named = {name: values for name, values in labels.items() if name not in (BACKGROUND, IGNORE)}
    _check_distinct(background, ignored, named)
    values_of_all = [value for values in named.values() for value in values]
    plain = all(len(values) == 1 for values in named.values()) and len(set(values_of_all)) == len(values_of_all)
    scheme = _plain(named) if plain else _regions(named)
    last = len(scheme.from_source) + 1
    from_source = dict.fromkeys(background, 0) | dict(scheme.from_source) | dict.fromkeys(ignored, last)
    converted = {BACKGROUND: 0, **scheme.labels} | ({IGNORE: last} if ignored else {})
    return LabelScheme(from_source, converted, scheme.regions_class_order)


def _plain(named: Mapping[str, Values]) -> LabelScheme:
    numbers = {values[0]: number for number, values in enumerate(named.values(), start=1)}
    return LabelScheme(numbers, {name: numbers[values[0]] for name, values in named.items()})


def _regions(named: Mapping[str, Values]) -> LabelScheme:
    """Regions from the outermost in, and in regions_class_order for each a label that is in none further in."""
    _check_nested(named)
    regions = dict(sorted(named.items(), key=lambda item: -len(item[1])))
    depth: dict[int, int] = {}  # of the innermost region that a value lies in
    for number, values in enumerate(regions.values()):
        depth |= dict.fromkeys(values, number)
    from_outside_in = sorted(depth, key=lambda value: (depth[value], value))
    numbers = {value: number for number, value in enumerate(from_outside_in, start=1)}
    labels: dict[str, int | list[int]] = {
        name: sorted(numbers[value] for value in values) for name, values in regions.items()
    }
    order = tuple(min(numbers[value] for value in values) for values in regions.values())
    return LabelScheme(numbers, labels, order)


def _check_distinct(background: Values, ignored: Values, named: Mapping[str, Values]) -> None:
    taken = dict.fromkeys(ignored, IGNORE) | dict.fromkeys(background, BACKGROUND)
    for name, values in (*named.items(), (IGNORE, ignored)):
        for value in values:
            if taken.get(value, name) != name:
                raise ValueError(
                    f"Expected the value {value} to be {taken[value]} alone, but {name} has it too: remove it from one."
                )


def _check_nested(named: Mapping[str, Values]) -> None:
    for (one, first), (two, second) in combinations(named.items(), 2):
        common = set(first) & set(second)
        if set(first) == set(second):
            raise ValueError(f"Expected labels of different values, got {one} and {two} of the same: leave one out.")
        if common and common not in (set(first), set(second)):
            raise ValueError(
                f"Expected labels that share values to lie within each other, but {one} and {two} share "
                f"{', '.join(map(str, sorted(common)))} alone: nnU-Net's regions are painted over each other. Name "
                "nested ones, or none that share."
            )
