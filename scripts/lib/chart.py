#!/usr/bin/env python3
"""Draws bars from a small table: JSON in, one SVG out. Python's standard library is all it needs.

    scripts/lib/chart.py TABLE.json > CHART.svg

TABLE.json:

    {"title": "…",
     "series": ["native", "container"],               a bar of its own colour in each group; 1 to 6
     "groups": [{"name": "QPS", "unit": "requests/s", "better": "more", "values": [1.5, 1.4]}, …],
     "notes": ["machine, date, versions, command", …]}   printed below; may be absent

Each group is a panel with a scale of its own, that begins at 0, since groups differ in their units; `better` is "more",
"less" or absent. A value may be null, which is drawn as a dash. The picture follows the reader's choice of a light or a
dark page, names its figures in its description for those who cannot see it, and has no text over other text: widths are
estimated from above, and what does not fit is wrapped.
"""
import json
import math
import sys
from xml.sax.saxutils import escape

WIDTH = 860                # pixels, of the whole picture
MARGIN = 24
GAP = 36                   # between two columns of panels
ROW = 26                   # from bar to bar
BAR = 16
TEXT, SMALL, HEAD = 13, 12, 18    # sizes of letters
# No letter of a text is on average wider than this part of its size, whatever sans-serif is at hand.
LETTER = 0.6
# Okabe and Ito's palette, which people tell apart who see colours differently (https://jfly.uni-koeln.de/color/), in an
# order whose neighbours differ in lightness too. A bar's outline gives the contrast to a page that its colour lacks.
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]
STYLE = """
  svg { color-scheme: light dark; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
  .page { fill: #ffffff; } text { fill: #1b1f24; } .quiet { fill: #57606a; } .axis { stroke: #8c959f; } .bar { stroke: #1b1f24; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } text { fill: #e6edf3; } .quiet { fill: #9da7b3; } .axis { stroke: #6e7681; } .bar { stroke: #e6edf3; }
  }
"""


class TableError(Exception):
    """What is wrong with a table, and where."""


def number(value):
    """A figure of about three digits, as it stands at a bar's end."""
    if value is None:
        return "–"
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 4
    return f"{value:,.{decimals}f}"


def width(text, size):
    """Pixels that a text takes at most."""
    # Ideographs and the like are as wide as they are high.
    return sum(1.0 if ord(letter) >= 0x2E80 else LETTER for letter in text) * size


def wrapped(text, size, room):
    """A text in lines that fit into so many pixels; a word that is too long is cut."""
    lines, line = [], ""
    for word in text.split():
        while width(word, size) > room:
            cut = max(1, int(room / size / 1.0 if any(ord(c) >= 0x2E80 for c in word) else room / (LETTER * size)))
            if line:
                lines.append(line)
                line = ""
            lines.append(word[:cut])
            word = word[cut:]
        longer = f"{line} {word}".strip()
        if width(longer, size) <= room:
            line = longer
        else:
            lines.append(line)
            line = word
    return lines + [line] if line else lines


def checked(table):
    """The table, if it is one; otherwise TableError says what is wrong."""
    def need(right, problem):
        if not right:
            raise TableError(problem)

    def texts(value):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    need(isinstance(table, dict), "the table is not a JSON object")
    need(isinstance(table.get("title"), str) and table["title"].strip(), "`title` is not a text, or empty")
    series = table.get("series")
    need(texts(series) and 1 <= len(series) <= len(COLOURS), f"`series` is not a list of 1 to {len(COLOURS)} names")
    need(texts(table.get("notes", [])), "`notes` is not a list of texts")
    groups = table.get("groups")
    need(isinstance(groups, list) and groups, "`groups` is not a list, or empty")
    for index, group in enumerate(groups):
        place = f"`groups[{index}]`"
        need(isinstance(group, dict) and isinstance(group.get("name"), str), f"{place} has no `name`")
        need(isinstance(group.get("unit", ""), str), f"{place}: `unit` is not a text")
        need(group.get("better") in (None, "more", "less"), f'{place}: `better` is neither "more" nor "less"')
        values = group.get("values")
        need(isinstance(values, list) and len(values) == len(series), f"{place} has not one value for each series")
        for value in values:
            fine = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            need(fine and (value is None or (math.isfinite(value) and value >= 0)), f"{place}: {value!r} is no figure of 0 or more")
    return table


def text(x, y, content, size=TEXT, kind="", anchor="start", bold=False):
    look = f' class="{kind}"' if kind else ""
    weight = ' font-weight="600"' if bold else ""
    end = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{look}{weight}{end}>{escape(content)}</text>'


def heading(group):
    """What stands above a panel."""
    parts = [part for part in (group.get("unit"), group.get("better") and f"{group['better']} is better") if part]
    return group["name"], ", ".join(parts)


def panel(group, series, left, top, room):
    """A group's bars from (left, top) in so many pixels; answers its elements and its height."""
    elements, y = [], top
    name, about = heading(group)
    for line in wrapped(name, TEXT, room):
        y += 18
        elements.append(text(left, y, line, bold=True))
    for line in wrapped(about, SMALL, room):
        y += 16
        elements.append(text(left, y, line, SMALL, "quiet"))
    y += 8
    labels = max(width(name, SMALL) for name in series)
    labels = min(labels, room * 0.4)
    figures = max(width(number(value), SMALL) for value in group["values"])
    start = left + labels + 8
    length = left + room - start - figures - 8
    most = max((value for value in group["values"] if value is not None), default=0) or 1
    first = y
    for colour, (label, value) in zip(COLOURS, zip(series, group["values"])):
        lines = wrapped(label, SMALL, labels)
        row = max(ROW, 14 * len(lines) + 8)
        middle = y + row / 2
        for at, line in enumerate(lines):
            elements.append(text(start - 8, middle + 4 + 14 * (at - (len(lines) - 1) / 2), line, SMALL, anchor="end"))
        long = 0 if value is None else length * value / most
        if value is not None:
            elements.append(f'<rect class="bar" x="{start:.1f}" y="{middle - BAR / 2:.1f}" width="{long:.1f}" height="{BAR}" '
                            f'fill="{colour}" stroke-width="1"><title>{escape(f"{label}: {number(value)}")}</title></rect>')
        elements.append(text(start + long + 8, middle + 4, number(value), SMALL))
        y += row
    elements.append(f'<line class="axis" x1="{start:.1f}" y1="{first:.1f}" x2="{start:.1f}" y2="{y:.1f}"/>')
    return elements, y - top


def description(table):
    """The figures in words."""
    sentences = []
    for group in table["groups"]:
        name, about = heading(group)
        values = ", ".join(f"{label} {number(value)}" for label, value in zip(table["series"], group["values"]))
        sentences.append(f"{name}{f' ({about})' if about else ''}: {values}.")
    return " ".join(sentences)


def chart(table):
    """The picture of a table, as text; TableError where the table is none."""
    table = checked(table)
    room = WIDTH - 2 * MARGIN
    columns = 1 if len(table["groups"]) == 1 else 2
    wide = (room - GAP * (columns - 1)) / columns
    elements, y = [], MARGIN
    for line in wrapped(table["title"], HEAD, room):
        y += HEAD + 4
        elements.append(text(MARGIN, y, line, HEAD, bold=True))
    y += 10
    for first in range(0, len(table["groups"]), columns):
        tallest = 0
        for column, group in enumerate(table["groups"][first:first + columns]):
            drawn, height = panel(group, table["series"], MARGIN + column * (wide + GAP), y, wide)
            elements += drawn
            tallest = max(tallest, height)
        y += tallest + 20
    for note in table.get("notes", []):
        for line in wrapped(note, SMALL, room):
            elements.append(text(MARGIN, y + 12, line, SMALL, "quiet"))
            y += 17
    high = math.ceil(y + MARGIN)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{high}" viewBox="0 0 {WIDTH} {high}" '
        'role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(table["title"])}</title>',
        f'<desc id="description">{escape(description(table))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{high}" fill="#ffffff"/>',
        *elements,
        "</svg>",
        "",
    ])


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            sys.stdout.write(chart(json.load(file)))
    except (OSError, ValueError, TableError) as error:
        print(f"error: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
