"""A page as a reader without a browser sees it: elements, links, texts, what its scripts are given."""

from __future__ import annotations

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "hr", "img"}
LOADS = ("src", "href", "action", "data", "srcset", "poster", "formaction", "xlink:href")


class Page(HTMLParser):
    """Elements as (tag, attributes, text) in their order; raises where one is not closed or an attribute stands twice."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements, self._open = text, [], []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {[tag for tag, *_ in self._open]}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute stands twice in <{tag} {attributes}>"
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element[2].append(data)

    def all(self, *tags):
        return [element for element in self.elements if element[0] in tags]

    def json(self, id):
        (found,) = ["".join(text) for _, attributes, text in self.elements if attributes.get("id") == id]
        return json.loads(found)

    @property
    def ids(self):
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]

    @property
    def links(self):
        return [attributes["href"] for _, attributes, _ in self.all("a") if attributes.get("href")]
