"""Text from users inside Markdown: it stays the text that it is, whatever it holds."""

import re

_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_{}[]()#+!|~"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "&#64;"}
)
# A list's first item, a rule or an underline at the start; an address without a scheme anywhere.
_MARKERS = re.compile(r"^(?=[-=])|(?:^\d+|www)(?=\.)", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return one line of Markdown that shows ``text`` and makes neither markup, HTML nor a link of it.

    White space becomes single spaces; control and bidirectional characters are replaced, because they can
    make a name look like another.
    """
    line = " ".join(text.split())
    visible = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
    escaped = visible.translate(_ESCAPES).replace("://", "&#58;//")
    return _MARKERS.sub(r"\g<0>\\", escaped)


def code(text: str) -> str:
    """Return a code span that shows ``text``, fenced by more backticks than it holds in a row."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
