"""Text of `status` about outputs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchr1.cli.printing import wrapped
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.report.compare import Comparison, Difference, LeftOut, Share

NO_INTERVAL = "no interval"


def as_lines(comparisons: Sequence[Comparison], names: Sequence[str]) -> list[str]:
    """Compare two outputs in a paragraph, more in a table.

    `names`: those of the outputs, as the lines above have them.
    """
    if not comparisons:
        return []
    found = [(one, name) for one, name in zip(comparisons, names[1:], strict=True) if one.prompts]
    if not found:
        return _not_compared(comparisons, names[0])
    if len(comparisons) == 1:
        return _pair(comparisons[0], names)
    return _table(found, names[0], missing=len(comparisons) - len(found))


def _not_compared(comparisons: Sequence[Comparison], first: str) -> list[str]:
    """Say why nothing is compared; nothing of nights, which share no prompt."""
    if len(comparisons) == 1:
        return [f"  not compared: {comparisons[0].reason}"]
    if not any(_shares(one.left_out) for one in comparisons):
        return []
    return [f"  not compared: no other output has a judged prompt of {printable(first)}"]


def _shares(left: LeftOut) -> bool:
    """Whether two outputs without a compared prompt have one in common."""
    return left.not_judged + left.other_prompt + left.other_gold > 0


def _pair(one: Comparison, names: Sequence[str]) -> list[str]:
    """The paragraph of two outputs."""
    assert one.first is not None and one.second is not None and one.difference is not None
    width = max(len("difference"), *map(len, names))
    said = "no difference shown"
    if one.difference.is_shown:
        said = "they differ"
    counts = f"{one.better:,} better, {one.worse:,} worse, {one.equal:,} equal"
    lines = [
        f"  compared on {one.prompts:,} prompts that are judged in both (pass@1, 95% intervals)",
        *(
            f"    {printable(name):<{width}}  {_share(share)}"
            for name, share in zip(names, (one.first, one.second), strict=True)
        ),
        f"    {'difference':<{width}}  {_difference(one.difference)} points: {said}",
        f"    {'prompts':<{width}}  {counts}",
    ]
    if left := _left_out(one):
        lines.append(wrapped(f"    {'left out':<{width}}  ", left))
    return lines + [wrapped("    note: ", note) for note in one.notes]


def _table(found: Sequence[tuple[Comparison, str]], first: str, *, missing: int) -> list[str]:
    """A line for each output that has prompts of the first."""
    width = max(len(name) for _, name in found)
    lines = [
        f"  compared with {printable(first)} by prompt (pass@1, 95% intervals, in points)",
        f"  {'':<{width}} {'prompts':>8}{'right':>7}  {'difference':<22}{'better':>7}{'worse':>7}",
    ]
    for one, name in found:
        assert one.second is not None and one.difference is not None
        lines.append(
            f"  {printable(name):<{width}} {one.prompts:>8,}{one.second.value:>7.1%}  "
            f"{_difference(one.difference):<22}{one.better:>7,}{one.worse:>7,}"
        )
    if missing:
        others = len(found) + missing
        lines.append(f"  not compared: {missing:,} of {others:,}, without a judged prompt of it")
    if any(one.notes for one, _ in found):
        lines.append("  notes, and what was left out, are in --json")
    return lines


def _share(share: Share) -> str:
    interval = f"({100 * share.low:.1f} to {100 * share.high:.1f}, {share.interval})"
    return f"{share.value:6.1%} {interval}, {share.samples:,} samples"


def _difference(found: Difference) -> str:
    """A difference in points, with its interval."""
    value = f"{100 * found.value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
    if found.low is None or found.high is None:
        return f"{value} ({NO_INTERVAL})"
    return f"{value} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _left_out(one: Comparison) -> str:
    """Count the prompts that are not compared, by reason."""
    left = one.left_out
    reasons = {
        "only in the first": left.only_first,
        "only in the second": left.only_second,
        "not judged in both": left.not_judged,
        "of the same id with another text": left.other_prompt,
        "with another gold": left.other_gold,
    }
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
