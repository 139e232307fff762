"""A report's page as a browser reads it."""

from __future__ import annotations

import html.parser
import re


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements and attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_inert(page: bytes) -> None:
    assert b"\x00" not in page
    text = page.decode()
    found = Page(text)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "footer",
        "div",
        "span",
        "p",
        "h1",
        "h2",
        "h3",
        "b",
        "i",
        "em",
        "small",
        "code",
        "ul",
        "li",
        "details",
        "summary",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "svg",
        "g",
        "path",
        "line",
        "text",
        "rect",
        "defs",
        "clippath",
    }
    assert set(found.tags) <= allowed
    for name, value in found.attributes:
        assert not name.startswith("on"), name
        assert name not in {
            "src",
            "srcdoc",
            "href",
            "action",
            "formaction",
            "data",
            "xlink:href",
        }, name
        assert not re.search(r"javascript:|url\((?!#)|expression\(|alert", value or ""), value
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ufeff\x01-\x08\x0b-\x1f\x7f]", text)
    assert text.count("<title>") == 1
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
