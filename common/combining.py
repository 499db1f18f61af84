"""How the centre may combine the replies of a round: the one table of rules.

The configuration refuses what cannot work with it (`common.config`), `server.aggregation` computes
with it, and docs/robust.md shows it; a test keeps that page true.

A rule that compares vectors must see each of them. Under secure aggregation nobody does: only sums
are left, and a bound that each plant keeps by itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Combining:
    """What a rule needs.

    Attributes
    ----------
    each, more : a rule needs ``each * f + more`` plants to hold against f that lie.
    sums : works where only the sum of the updates is known.
    streams : forgets each update once it is counted; the others hold the round's updates.
    what : what it does, for the docs.
    paper : title and address.
    """

    each: int
    more: int
    sums: bool = False
    streams: bool = False
    what: str
    paper: str

    def fewest(self, faulty: int) -> int:
        """Return how many plants must answer where so many may lie."""
        return self.each * faulty + self.more

    @property
    def formula(self) -> str:
        return f"{self.each}f + {self.more}" if self.each else str(self.more)


_YIN = "Yin et al. 2018, https://arxiv.org/abs/1803.01498"
_BLANCHARD = "Blanchard et al. 2017, https://arxiv.org/abs/1703.02757"

#: ``server.rule`` of federation.toml.
RULES = {
    "mean": Combining(
        each=0,
        more=1,
        sums=True,
        streams=True,
        what="weighted mean; one liar moves it as far as admission lets it",
        paper="McMahan et al. 2017, https://arxiv.org/abs/1602.05629",
    ),
    "norm_bound": Combining(
        each=2,
        more=1,
        sums=True,
        streams=True,
        what="mean of updates, each shortened to `server.radius`; without a radius to the median "
        "length, and then it must see and hold them all",
        paper="Sun et al. 2019, https://arxiv.org/abs/1911.07963",
    ),
    "median": Combining(each=2, more=1, what="median of each value", paper=_YIN),
    "trimmed_mean": Combining(
        each=2,
        more=1,
        what="mean of each value without the f largest and the f smallest",
        paper=_YIN,
    ),
    "geometric_median": Combining(
        each=2,
        more=1,
        what="the point with the least sum of distances (RFA)",
        paper="Pillutla et al. 2022, https://arxiv.org/abs/1912.13445",
    ),
    "centred_clipping": Combining(
        each=2,
        more=1,
        what="from the median, three steps by the mean difference, each difference shortened to "
        "`server.radius` or to their median length",
        paper="Karimireddy et al. 2021, https://arxiv.org/abs/2012.10333",
    ),
    "krum": Combining(
        each=2, more=3, what="the one update that is nearest to its neighbours", paper=_BLANCHARD
    ),
    "multi_krum": Combining(
        each=2, more=3, what="mean of the n - f updates that Krum ranks first", paper=_BLANCHARD
    ),
    "bulyan": Combining(
        each=4,
        more=3,
        what="n - 2f updates chosen by Krum, then each value trimmed around their median",
        paper="El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927",
    ),
}


def table() -> str:
    """Return the rules as Markdown."""
    lines = [
        "| `server.rule` | what comes out | plants for f liars | memory | under secure aggregation "
        "| source |",
        "|---|---|---|---|---|---|",
    ]
    for name, rule in RULES.items():
        memory = "one update" if rule.streams else "every update"
        secure = "no: it must see each update"
        if rule.sums:
            secure = "with `server.radius`, at the plant" if name == "norm_bound" else "yes"
        lines.append(
            f"| `{name}` | {rule.what} | {rule.formula} | {memory} | {secure} | {rule.paper} |"
        )
    return "\n".join(lines)
