#!/usr/bin/env python3
"""Draws roi_align.png, a RoI on a feature map with its bins and samples and one bilinear value.

python docs/figures/roi_align.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import ConnectionPatch, Rectangle

INK, GREY, RED, BLUE, PALE = "#1f2933", "#9aa5b1", "#c8402f", "#1f5f99", "#eef2f6"
plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "mathtext.fontset": "cm"})

# The sample (9.94, 6.50) and its four neighbours; the centre of pixel (i, j) is at
# (i + 0.5, j + 0.5). The RoI is chosen so that this is one of its samples.
SAMPLE = (9.94, 6.50)
PIXELS = {(9, 6): 0.1, (10, 6): 0.2, (9, 7): 1.0, (10, 7): 0.7}
BINS, SAMPLES, BIN = 3, 2, (3.3, 2.9)
BOX = (SAMPLE[0] - 1.75 * BIN[0], SAMPLE[1] - 1.25 * BIN[1])
MAP = (16, 16)


def at(pixel):
    return pixel[0] + 0.5, pixel[1] + 0.5


def samples():
    """The samples of the RoI as (x, y)."""
    for k in range(BINS * SAMPLES):
        for j in range(BINS * SAMPLES):
            yield BOX[0] + (k + 0.5) * BIN[0] / SAMPLES, BOX[1] + (j + 0.5) * BIN[1] / SAMPLES


def bilinear():
    x, y = SAMPLE
    return sum(
        (1 - abs(x - at(p)[0])) * (1 - abs(y - at(p)[1])) * value for p, value in PIXELS.items()
    )


def draw_map(axes):
    for i in range(MAP[0]):
        for j in range(MAP[1]):
            near = (i, j) in PIXELS
            axes.add_patch(
                Rectangle((i, j), 1, 1, fc="#fbe3da" if near else PALE, ec="white", lw=1.6)
            )
            axes.plot(*at((i, j)), ".", color=RED if near else GREY, ms=5 if near else 2.2)
    width, height = BINS * BIN[0], BINS * BIN[1]
    axes.add_patch(Rectangle(BOX, width, height, fc="none", ec=INK, lw=2.4, zorder=4))
    for k in range(1, BINS):
        x, y = BOX[0] + k * BIN[0], BOX[1] + k * BIN[1]
        axes.plot([x, x], [BOX[1], BOX[1] + height], color=INK, lw=1.1, zorder=3)
        axes.plot([BOX[0], BOX[0] + width], [y, y], color=INK, lw=1.1, zorder=3)
    for point in samples():
        axes.plot(*point, "o", color=BLUE, ms=5, mec="white", mew=0.7, zorder=5)
    axes.plot(*SAMPLE, "o", color=RED, ms=8, mec="white", mew=1, zorder=6)
    axes.set(xlim=(-0.1, MAP[0] + 0.1), ylim=(MAP[1] + 0.1, -0.1), aspect="equal")
    axes.set_xticks(range(0, MAP[0] + 1, 2))
    axes.set_yticks(range(0, MAP[1] + 1, 2))
    axes.tick_params(length=0, labelsize=8, labelcolor=GREY, pad=2)
    axes.xaxis.tick_top()
    axes.set_title("a RoI on a 16 x 16 map: 3 x 3 bins, 2 x 2 samples in each", fontsize=11, pad=18)


def draw_sample(axes):
    x, y = SAMPLE
    left, right, top, bottom = 9, 11, 6, 8
    for (i, j), value in PIXELS.items():
        axes.add_patch(Rectangle((i, j), 1, 1, fc="#fbe3da", ec="white", lw=3))
        centre = at((i, j))
        axes.plot([x, centre[0]], [y, centre[1]], color=RED, lw=1, alpha=0.45, zorder=2)
        axes.plot(*centre, "o", color=RED, ms=7, zorder=3)
        above = j == top
        axes.text(
            centre[0], centre[1] + (-0.16 if above else 0.16), f"{value:g}",
            ha="center", va="bottom" if above else "top", fontsize=15, color=RED,
        )  # fmt: skip
        axes.text(
            i + (0.06 if i == 9 else 0.94), j + (0.07 if above else 0.93), f"pixel ({i}, {j})",
            ha="left" if i == 9 else "right", va="top" if above else "bottom",
            fontsize=8, color=GREY,
        )  # fmt: skip
    axes.plot(x, y, "o", color=RED, ms=12, mec="white", mew=1.4, zorder=5)
    axes.annotate(
        f"P({x}, {y:.2f})", (x, y), (x, y - 0.13), ha="center", fontsize=10.5, color=INK
    )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_xticks([9, 9.5, 10, 10.5, 11])
    axes.set_yticks([6, 6.5, 7, 7.5, 8])
    axes.tick_params(length=0, labelsize=8, labelcolor=GREY, pad=3)
    axes.xaxis.tick_top()
    axes.set_title("one sample and its four neighbours", fontsize=11, pad=18)
    weights = (((1 - abs(x - at(p)[0])) * (1 - abs(y - at(p)[1])), v) for p, v in PIXELS.items())
    terms = "  +  ".join(f"{weight:.2g} · {value:g}" for weight, value in weights)
    axes.text(10, 8.12, terms, ha="center", va="top", fontsize=10.5)
    axes.text(10, 8.29, f"=  {bilinear():.3f}  ≈  0.14", ha="center", va="top", fontsize=13)


def main():
    assert any(abs(x - SAMPLE[0]) + abs(y - SAMPLE[1]) < 1e-9 for x, y in samples())
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.6, 6), width_ratios=(1.42, 1), gridspec_kw={"wspace": 0.16}
    )
    for axes in (left, right):
        axes.spines[:].set_visible(False)
    draw_map(left)
    draw_sample(right)
    for corner in (6, 8):
        figure.add_artist(
            ConnectionPatch(
                (11, corner),
                (9, corner),
                left.transData,
                right.transData,
                color=RED,
                lw=0.7,
                alpha=0.5,
            )
        )
    figure.savefig(
        Path(__file__).with_suffix(".png"), dpi=120, bbox_inches="tight", pad_inches=0.15,
        facecolor="white", metadata={"Software": None},
    )  # fmt: skip


if __name__ == "__main__":
    main()
