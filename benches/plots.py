"""Plots as SVG, written by hand: rows of bars in panels side by side, on a card of their own, in light or dark colours.

Colours mean one thing each: naq, what it is compared with, and the limits of the machine (an outline). Every bar has
its value, so there are no axes.
"""

import textwrap
from html import escape

WIDTH = 720
PADDING = 20
ROW = 26
BAR = 16
GAP = 20
# Average width of a character, of the size of the text.
CHARACTER = 0.56
CHARACTER_STRONG = 0.64

STYLE = """
.card{fill:#fff;stroke:#dfe3e8}.text{fill:#1b2430}.faint{fill:#566273}.line{stroke:#dfe3e8}
.ours{fill:#1f5f96}.theirs{fill:#b3bdc9}.limit{fill:none;stroke:#8793a3;stroke-dasharray:3 2}
.mark{stroke:#1b2430;stroke-width:1.5}
.s0{fill:#b3bdc9}.s1{fill:#1f5f96}.s2{fill:#5b93c4}.s3{fill:#e0a33a}.s4{fill:#7d5ba6}
@media (prefers-color-scheme:dark){
.card{fill:#1a2129;stroke:#2c3540}.text{fill:#e4e9ef}.faint{fill:#9aa7b6}.line{stroke:#2c3540}
.ours{fill:#6fb0ea}.theirs{fill:#566373}.mark{stroke:#e4e9ef}
.s0{fill:#566373}.s1{fill:#6fb0ea}.s2{fill:#3f78ab}.s3{fill:#e3b65a}.s4{fill:#b39ad4}}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:13px}
text{font-variant-numeric:tabular-nums}
.title{font-size:16px;font-weight:600}.head{font-size:12px;font-weight:600}.small{font-size:12px}.strong{font-weight:600}
"""


class Drawing:
    """An SVG of the width of a page, which grows downwards."""

    def __init__(self, title, subtitle):
        self.parts = []
        self.title = title
        self.text(PADDING, 34, title, "text title")
        self.description = subtitle
        self.y = 54
        for line in textwrap.wrap(subtitle, 104):
            self.text(PADDING, self.y, line, "faint small")
            self.y += 17
        self.y += 10

    def text(self, x, y, words, style="text", anchor="start"):
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}"{anchored}>{escape(words)}</text>')

    def bar(self, x, y, width, style, height=BAR):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" rx="2" class="{style}"/>'
        )

    def line(self, x1, y1, x2, y2, style="line"):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>')

    def legend(self, entries):
        """What colours mean: pairs of a style and a name, in one line."""
        x = PADDING
        for style, name in entries:
            if style == "mark":
                self.line(x + 6, self.y - 12, x + 6, self.y + 2, style)
            else:
                self.bar(x + 0.5, self.y - 10.5, 12, style, height=11)
            self.text(x + 18, self.y, name, "faint small")
            x += 18 + len(name) * 12 * CHARACTER + 16
        self.y += 20

    def svg(self):
        height = self.y + PADDING - 4
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<desc>{escape(self.description)}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="card"/>',
            *self.parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def labels_width(names):
    return max(len(name) for name in names) * 13 * CHARACTER + 10


def columns(title, subtitle, panels, rows):
    """Rows of bars in panels, each with a scale of its own that begins at 0.

    `panels` has a heading and the text of a value for each panel. A row is a name, a style (`ours`, `theirs`, `limit`)
    and a value for each panel, `None` where there is none; `None` in place of a row draws a line.
    """
    drawing = Drawing(title, subtitle)
    given = [row for row in rows if row]
    factor = {style: CHARACTER_STRONG if style == "ours" else CHARACTER for _, style, _ in given}
    labels = max(len(name) * 13 * factor[style] for name, style, _ in given) + 14
    width = (WIDTH - 2 * PADDING - labels - GAP * (len(panels) - 1)) / len(panels)
    best = [max((row[2][at] or 0 for row in given), default=0) for at in range(len(panels))]
    room = [
        max((len(show(row[2][at])) * 13 * factor[row[1]] for row in given if row[2][at] is not None), default=0)
        for at, (_, show) in enumerate(panels)
    ]
    for at, (heading, _) in enumerate(panels):
        for number, line in enumerate(heading.split("\n")):
            drawing.text(PADDING + labels + at * (width + GAP), drawing.y + 15 * number, line, "faint head")
    drawing.y += 15 * (max(heading.count("\n") for heading, _ in panels)) + 10
    for row in rows:
        if row is None:
            drawing.line(PADDING, drawing.y + 6, WIDTH - PADDING, drawing.y + 6)
            drawing.y += 12
            continue
        name, style, values = row
        strong = " strong" if style == "ours" else ""
        drawing.text(PADDING, drawing.y + 17, name, ("faint" if style == "limit" else "text") + strong)
        for at, value in enumerate(values):
            x = PADDING + labels + at * (width + GAP)
            if value is None:
                drawing.text(x, drawing.y + 17, "–", "faint")
                continue
            space = width - room[at] - 8
            length = space * value / best[at] if best[at] else 0
            inset = 0.5 if style == "limit" else 0
            drawing.bar(x + inset, drawing.y + 4 + inset, length - 2 * inset, style, BAR - 2 * inset)
            drawing.text(
                x + length + 6, drawing.y + 17, panels[at][1](value), ("faint" if style == "limit" else "text") + strong
            )
        drawing.y += ROW
    return drawing.svg()


def shares(title, subtitle, rows, show):
    """Rows of one bar each within its limit, an outline. A row is a name, a value and its limit."""
    drawing = Drawing(title, subtitle)
    labels = labels_width(name for name, _, _ in rows)
    notes = [(f"{value / limit:.0%}", f"{show(value)} of {show(limit)}") for _, value, limit in rows]
    room = max(len(note) for _, note in notes) * 13 * CHARACTER + 60
    scale = (WIDTH - 2 * PADDING - labels - room) / max(max(value, limit) for _, value, limit in rows)
    for (name, value, limit), (share, note) in zip(rows, notes, strict=True):
        drawing.text(PADDING, drawing.y + 18, name)
        x = PADDING + labels
        drawing.bar(x, drawing.y + 4, value * scale, "ours", 20)
        drawing.bar(x + 0.5, drawing.y + 4.5, limit * scale - 1, "limit", 19)
        x += max(value, limit) * scale + 8
        drawing.text(x, drawing.y + 18, share, "text strong")
        drawing.text(x + 44, drawing.y + 18, note, "faint")
        drawing.y += ROW + 6
    return drawing.svg()


def stacks(title, subtitle, parts, mark, rows, show):
    """Rows of one bar each that is made of parts, with a mark. A row is a name, its values, and where its mark is."""
    drawing = Drawing(title, subtitle)
    drawing.legend([*((f"s{at}", part) for at, part in enumerate(parts)), ("mark", mark)])
    labels = labels_width(name for name, _, _ in rows)
    room = max(len(show(sum(values))) for _, values, _ in rows) * 13 * CHARACTER + 10
    scale = (WIDTH - 2 * PADDING - labels - room) / max(max(sum(values), at) for _, values, at in rows)
    for name, values, limit in rows:
        drawing.text(PADDING, drawing.y + 18, name)
        x = PADDING + labels
        for at, value in enumerate(values):
            if value:
                drawing.bar(x, drawing.y + 4, value * scale - 1, f"s{at}", 20)
                x += value * scale
        drawing.text(x + 6, drawing.y + 18, show(sum(values)))
        x = PADDING + labels + limit * scale
        drawing.line(x, drawing.y + 1, x, drawing.y + 27, "mark")
        drawing.y += ROW + 6
    return drawing.svg()


def ratios(title, subtitle, rows):
    """Rows of a ratio each, with a mark at 1. A row is a name and a ratio."""
    drawing = Drawing(title, subtitle)
    labels = labels_width(name for name, _ in rows)
    scale = (WIDTH - 2 * PADDING - labels - 50) / max(1.0, *(value for _, value in rows))
    top = drawing.y
    for name, value in rows:
        drawing.text(PADDING, drawing.y + 17, name)
        drawing.bar(PADDING + labels, drawing.y + 4, value * scale, "ours")
        # past the mark if the value would be on it
        end = value * scale + 6
        end = scale + 6 if end <= scale <= end + 32 else end
        drawing.text(PADDING + labels + end, drawing.y + 17, f"{value:.2f}", "text strong")
        drawing.y += ROW
    drawing.line(PADDING + labels + scale, top, PADDING + labels + scale, drawing.y, "mark")
    return drawing.svg()
