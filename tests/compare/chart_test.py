"""The chart: what it shows, that no text lies on another, what it refuses. Run by `scripts/test compare`."""
import random
import sys
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts/lib"))
import chart  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def table(**changes):
    group = {"name": "QPS", "unit": "answers/s", "better": "more", "values": [1.5, 1.25]}
    return {"title": "Two", "series": ["native", "container"], "groups": [group], "notes": ["a machine"], **changes}


def boxes(root):
    """(left, top, right, bottom, text) of every text, by the same estimate of width that the drawing uses."""
    for element in root.iter(f"{SVG}text"):
        x, y, size = float(element.get("x")), float(element.get("y")), float(element.get("font-size"))
        wide = chart.width(element.text, size)
        left = x - wide if element.get("text-anchor") == "end" else x
        yield left, y - 0.8 * size, left + wide, y + 0.2 * size, element.text


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class Chart(unittest.TestCase):
    def layout(self, given):
        root = xml.fromstring(chart.chart(given))
        high = float(root.get("height"))
        texts = list(boxes(root))
        for index, box in enumerate(texts):
            self.assertTrue(0 <= box[0] and box[2] <= chart.WIDTH and 0 <= box[1] and box[3] <= high, box)
            for other in texts[:index]:
                self.assertFalse(overlap(box, other), (box, other))
        return root

    def test_bars_have_the_lengths_of_their_values(self):
        bars = [float(bar.get("width")) for bar in self.layout(table()).iter(f"{SVG}rect") if bar.get("class") == "bar"]
        self.assertEqual(len(bars), 2)
        self.assertAlmostEqual(bars[1] / bars[0], 1.25 / 1.5, places=2)

    def test_figures_are_told_in_words(self):
        root = self.layout(table())
        self.assertEqual(root.find(f"{SVG}title").text, "Two")
        self.assertEqual(root.find(f"{SVG}desc").text, "QPS (answers/s, more is better): native 1.50, container 1.25.")
        self.assertEqual(root.get("aria-labelledby"), "title description")
        self.assertEqual(root.get("role"), "img")

    def test_any_table_is_drawn_without_text_on_text(self):
        chance = random.Random(1)
        letters = "abcdefghij <&>\"'äß漢字iiiWWWmmm  "
        def words(most):
            return "".join(chance.choice(letters) for _ in range(chance.randint(1, most))).strip() or "x"
        for _ in range(100):
            series = [words(60) for _ in range(chance.randint(1, len(chart.COLOURS)))]
            groups = [{"name": words(120), "unit": words(30), "better": chance.choice(["more", "less", None]),
                       "values": [chance.choice([None, 0, chance.random() * 10 ** chance.randint(-3, 9)]) for _ in series]}
                      for _ in range(chance.randint(1, 7))]
            self.layout({"title": words(200), "series": series, "groups": groups, "notes": [words(400)]})

    def test_numbers(self):
        self.assertEqual([chart.number(value) for value in [None, 0, 0.01234, 0.5, 12.34, 123.4, 12345.6]],
                         ["–", "0.00", "0.0123", "0.50", "12.3", "123", "12,346"])

    def test_what_is_no_table_is_refused_with_its_place(self):
        group = table()["groups"][0]
        for wrong, part in [
            ([], "not a JSON object"),
            (table(title=" "), "`title`"),
            (table(series=[]), "`series`"),
            (table(series=["x"] * 9), "`series`"),
            (table(notes="x"), "`notes`"),
            (table(groups=[]), "`groups`"),
            (table(groups=[group, {"name": 1}]), "`groups[1]`"),
            (table(groups=[{**group, "values": [1]}]), "one value for each series"),
            (table(groups=[{**group, "values": [1, -1]}]), "-1 is no figure"),
            (table(groups=[{**group, "values": [1, float("nan")]}]), "nan is no figure"),
            (table(groups=[{**group, "values": [1, True]}]), "True is no figure"),
            (table(groups=[{**group, "better": "most"}]), "`better`"),
        ]:
            with self.subTest(part), self.assertRaises(chart.TableError) as caught:
                chart.chart(wrong)
            self.assertIn(part, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
