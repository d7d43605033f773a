"""Which of the scored cases overlays and viewer show."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import METRICS

NUMBER = 3  # of cases where nobody asks for others
MOST_LISTED = 10  # names, in an error


def cases_to_show(comparison: Comparison, wanted: Sequence[str] = ()) -> dict[str, str]:
    """Choose cases, and say what each stands for.

    Args:
        comparison: all scores; a case's mean is over models, subsets and regions.
        wanted: names of cases; or one number of them (3 if empty): the case of median Dice, the worst, the best, and on
            from the worst. Cases without any Dice are shown by their names only.

    Raises:
        ValueError: a name is no scored case's, or the number is 0.
    """
    means = comparison.scores.groupby("case")["dice"].mean().sort_values(kind="stable")  # those without any come last
    order, defined = [str(case) for case in means.index], max(int(means.notna().sum()), 1)
    median, worst, best = (defined - 1) // 2, 0, defined - 1
    if number := _number(wanted, order):
        places = list(dict.fromkeys([median, worst, best, *range(defined)]))[:number]
    else:
        places = [order.index(name) for name in _known(wanted, order)]
    titles = {best: "best case", worst: "worst case", median: "median case"}
    ranks = {place: titles.get(place, f"case {place + 1} of {len(order)} from the worst") for place in range(defined)}
    dice = [METRICS[0].text(mean) for mean in means]
    return {order[i]: f"{ranks[i]}, mean Dice {dice[i]} %" if i in ranks else "no Dice" for i in places}


def _number(wanted: Sequence[str], order: Sequence[str]) -> int | None:
    """How many cases are wanted; None where they are named."""
    if not wanted:
        return NUMBER
    if len(wanted) > 1 or wanted[0] in order or not wanted[0].isdecimal():
        return None
    if int(wanted[0]) < 1:
        raise ValueError(f"Expected --cases of at least 1, got {wanted[0]}. Leave it out for {NUMBER}.")
    return int(wanted[0])


def _known(names: Sequence[str], order: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in order]
    if unknown:
        more = f" and {len(order) - MOST_LISTED} more" if len(order) > MOST_LISTED else ""
        raise ValueError(
            f"Expected --cases to be a number or names of scored cases, got {', '.join(unknown)}. Scored are, the "
            f"worst first, {', '.join(order[:MOST_LISTED])}{more}."
        )
    return list(dict.fromkeys(names))
