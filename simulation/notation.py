"""How a report writes scores: shares in per cent and points, other measures as they are."""

from __future__ import annotations

from dataclasses import dataclass


def per_cent(value: float) -> str:
    """Return a share as per cent with one decimal: ``87.3``."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def points(value: float) -> str:
    """Return a difference of shares as signed percentage points: ``+2.3``, ``−0.4``, ``0.0``."""
    figure = f"{100 * value:+.1f}"
    return "0.0" if figure in ("+0.0", "-0.0") else figure.replace("-", "−")


def plain(value: float) -> str:
    """Return a number with three or four figures: ``0.873``, ``12.6``, ``4210``."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    figure = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(figure) == 0 else figure.replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How the scores of one run are written.

    Attributes
    ----------
    share : whether they are shares.
    lower : whether a lower score is the better one.
    """

    share: bool = True
    lower: bool = False

    def score(self, value: float) -> str:
        return per_cent(value) if self.share else plain(value)

    def change(self, value: float) -> str:
        """Write a gain with its sign; more is better, whatever the measure."""
        if self.share:
            return points(value)
        figure = plain(value)
        return figure if value <= 0 or float(figure) == 0 else f"+{figure}"

    @property
    def unit(self) -> str:
        """After a score: `` %``, or nothing."""
        return " %" if self.share else ""

    @property
    def points(self) -> str:
        """After a gain: `` points``, or nothing."""
        return " points" if self.share else ""

    @property
    def where(self) -> str:
        """After the name of a score: ``, in per cent``."""
        if self.share:
            return ", in per cent"
        return ", lower is better" if self.lower else ""


SHARES = Notation()
