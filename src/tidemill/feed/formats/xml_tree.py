"""XML from strangers as a tree that knows its lines: no document type, no entities, no abyss."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from tidemill.feed.formats.decoding import Unreadable

_DEEPEST = 100


class Element(ET.Element):
    """An element and the line on which it begins."""

    line: int = 0


def parse_xml(text: str) -> Element:
    """The root of an XML document.

    Raises:
        Unreadable: It is not well-formed, nested too deep, or declares a document type or entities.
    """
    builder = _Builder()
    parser: Any = DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.expat = parser.parser
    try:
        parser.feed(text)
        return parser.close()
    except DefusedXmlException as error:
        raise Unreadable(
            parser.parser.CurrentLineNumber,
            "XML with a document type or entities, which can read files and fill the memory; "
            "remove the <!DOCTYPE …>",
        ) from error
    except ET.ParseError as error:
        raise Unreadable(error.position[0], f"not well-formed XML: {error}") from error


class _Builder(ET.TreeBuilder):
    """Makes elements that know their line."""

    def __init__(self) -> None:
        super().__init__(element_factory=self._element)
        self.expat: Any = None
        self._depth = 0

    def _element(self, tag: str, attributes: dict[str, str]) -> Element:
        element = Element(tag, attributes)
        element.line = self.expat.CurrentLineNumber
        return element

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        """Count how deep it goes; freeing a tree of a million levels would crash."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable(
                self.expat.CurrentLineNumber, f"XML nested deeper than {_DEEPEST} levels"
            )
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        """The other half of `start`."""
        self._depth -= 1
        return super().end(tag)


def local_name(element: ET.Element) -> str:
    """The tag in lower case without its namespace, as feeds differ in those."""
    return element.tag.rpartition("}")[2].lower()


def children(element: ET.Element, *names: str) -> list[Element]:
    """The children whose local name is one of ``names``; all if none is given."""
    found = [child for child in element if isinstance(child, Element)]
    return [child for child in found if local_name(child) in names] if names else found


def text_of(element: ET.Element, *names: str) -> str:
    """All text in the first child of the first of ``names`` that has any, else ""."""
    return next((text for name in names for text in texts_of(element, name)), "")


def texts_of(element: ET.Element, *names: str) -> list[str]:
    """All text in each child called one of ``names``, without empty ones."""
    found = ("".join(child.itertext()).strip() for child in children(element, *names))
    return [text for text in found if text]
