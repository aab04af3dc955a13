"""Simulations of epochs, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onetake.cli.console import BYTE_UNITS
from onetake.core.errors import SpecError
from onetake.core.simulate import Int64Array, Series, Simulation

__all__ = ["draw"]

_POINTS = 400  # of a curve, at most


def draw(simulations: Sequence[Simulation], series: Sequence[Series], out: Path) -> None:
    """Videos per global batch over an epoch, and bytes per node, as a PNG.

    Args:
        simulations: one for each number of lanes.
        series: what goes with them, of the first epoch.
        out: the file.

    Raises:
        SpecError: it can't be written.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 7), height_ratios=(3, 2))
    width = 0.8 / len(series)
    most = max(int(one.node_bytes.max()) for one in series)
    power = min(max((len(str(most)) - 1) // 3, 1), 4)
    step, perfect = _means(series[0].step, series[0].perfect)
    upper.plot(step, perfect, color="black", linestyle="--", label="perfect shuffle", zorder=3)
    for number, (simulation, one) in enumerate(zip(simulations, series, strict=True)):
        label = f"{simulation.lanes:,} lanes"
        step, videos = _means(one.step, one.distinct)
        upper.plot(
            step, videos, color=f"C{number}", linewidth=1.2, label=f"{label}: {simulation.distinct_ratio:.0%} of it"
        )
        nodes = np.arange(len(one.node_bytes)) + (number - (len(series) - 1) / 2) * width
        lower.bar(nodes, one.node_bytes / 10 ** (3 * power), width, color=f"C{number}", label=label)
    upper.set(xlabel="step of the first epoch", ylabel="different videos in a global batch", ylim=(0, None))
    lower.set(xlabel="node", ylabel=f"fetched in the first epoch ({BYTE_UNITS[power - 1]})")
    for axis in (upper, lower):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    upper.legend(loc="lower left")
    if len(series) > 1:
        lower.legend(loc="lower left")
    figure.tight_layout()
    try:
        figure.savefig(out, dpi=90, format="png")
    except OSError as error:
        raise SpecError(f"--plot {out}: cannot be written ({error.strerror})") from None
    finally:
        plt.close(figure)


def _means(step: Int64Array, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of few points: the means of neighbours."""
    size = -(-len(step) // _POINTS)
    starts = np.arange(0, len(step), size)
    count = np.diff(np.append(starts, len(step)))
    return np.add.reduceat(step, starts) / count, np.add.reduceat(values, starts) / count
