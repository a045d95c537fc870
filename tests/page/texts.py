"""Markdown for the tests of the chat page."""

# Pieces of which hostile texts are made.
NASTY = ["<script>window.broken = 1</script>", "<img src=x onerror=window.broken=1>", "javascript:window.broken=1", "](", "[", "!", "(",
         ")", "`", "```", "~~~", "\n", "\n\n", "  ", "    ", "- ", "1. ", "> ", "# ", "|", "|-|-|", "*", "**", "_", "__", "~~", "\\", "<",
         ">", "&lt;", "\"", "'", "https://example.org/a_b", "http://[", "data:text/html,<script>1</script>", "mailto:a@b.c",
         "<https://x.y>", "word", "é", "🌍", "\u202e", "\u0000", "\r\n", "\t", "on=", "href=", "</code>", "-->", "{{x}}", "${1}"]

# What elements and attributes any text may become.
TAGS = {"P", "H3", "H4", "H5", "H6", "PRE", "CODE", "DIV", "SPAN", "BUTTON", "svg", "path", "EM", "STRONG", "S", "A", "UL", "OL", "LI",
        "BLOCKQUOTE", "HR", "BR", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}
ATTRIBUTES = {"class", "tabindex", "role", "aria-label", "type", "title", "viewBox", "aria-hidden", "d", "href", "rel", "target", "start", "scope"}

# Texts, and the HTML that they must become.
RENDERED = [
    ("a **b** *c* `d*e*` ~~f~~", "<p>a <strong>b</strong> <em>c</em> <code>d*e*</code> <s>f</s></p>"),
    ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
    ("# One\ntext", "<h3>One</h3><p>text</p>"),
    ("## One\n#### Two\n# Three", "<h3>One</h3><h4>Two</h4><h3>Three</h3>"),
    ("- a\n- b\n  - c\n\n1. x\n2. y", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>x</li><li>y</li></ol>"),
    ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
    ("> q\n> r", "<blockquote><p>q<br>r</p></blockquote>"),
    ("[x](https://e.org/a_b) [y](javascript:alert)",
     '<p><a href="https://e.org/a_b" rel="noopener noreferrer nofollow" target="_blank">x</a> [y](javascript:alert)</p>'),
    ("see https://e.org.", '<p>see <a href="https://e.org/" rel="noopener noreferrer nofollow" target="_blank">https://e.org</a>.</p>'),
    ("<b>&amp;</b>", "<p>&lt;b&gt;&amp;amp;&lt;/b&gt;</p>"),
    ("\\*a\\*", "<p>*a*</p>"),
    ("***", "<hr>"),
]

# An answer that shows everything.
SAMPLE = """Here is a short plan.

## Steps

1. Read the file, **line by line**.
2. Count the words:

```python
from collections import Counter

def words(path):
    with open(path) as lines:
        return Counter(word for line in lines for word in line.split())
```

| Word | Count |
|------|-------|
| the  | 12    |
| star | 3     |

```python
print(words("README.md").most_common(3))
```

> Mind `encoding`: see [the manual](https://docs.python.org/3/library/functions.html#open).
"""
