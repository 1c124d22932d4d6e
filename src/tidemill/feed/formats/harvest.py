"""Answers of OAI-PMH, arXiv's interface for harvesters: formats arXiv, arXivRaw and oai_dc."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.feed.draft import Draft, split_names
from tidemill.feed.entry import Refusal
from tidemill.feed.formats.decoding import Unreadable
from tidemill.feed.formats.xml_tree import Element, children, local_name, text_of, texts_of
from tidemill.feed.raw import RawEntry

_COMMENT = "Comment:"


def parse_harvest(root: Element) -> Iterator[RawEntry | Refusal]:
    """The records of an answer.

    Raises:
        Unreadable: It is an error message.
    """
    for error in children(root, "error"):
        code, said = error.get("code", ""), "".join(error.itertext()).strip()
        raise Unreadable(error.line, f"holds an error of OAI-PMH: {code} {said}".rstrip())
    lists = children(root, "listrecords", "getrecord") or [root]
    for record in (record for part in lists for record in children(part, "record")):
        header = next(iter(children(record, "header")), record)
        if header.get("status") == "deleted":
            yield Refusal(record.line, f"deleted at the source: {text_of(header, 'identifier')}")
            continue
        forms = [form for metadata in children(record, "metadata") for form in children(metadata)]
        form = forms[0] if forms else record
        draft = _dublin_core(form) if local_name(form) == "dc" else _arxiv(form)
        draft.line = record.line
        draft.identifiers.append(text_of(header, "identifier"))
        yield draft.checked()


def _arxiv(form: Element) -> Draft:
    draft = Draft(
        line=form.line,
        title=text_of(form, "title"),
        abstract=text_of(form, "abstract"),
        identifiers=texts_of(form, "id"),
        subjects=text_of(form, "categories").split(),
        doi=text_of(form, "doi"),
        journal_ref=text_of(form, "journal-ref"),
        comment=text_of(form, "comments"),
        license=text_of(form, "license"),
        submitted=text_of(form, "created"),
        revised=text_of(form, "updated"),
    )
    for authors in children(form, "authors"):
        people = children(authors, "author")
        draft.authors = [
            " ".join(texts_of(author, "forenames") + texts_of(author, "keyname", "suffix"))
            for author in people
        ] or split_names("".join(authors.itertext()))
    if versions := children(form, "version"):
        draft.submitted = text_of(versions[0], "date")
        draft.revised = text_of(versions[-1], "date")
        draft.version = versions[-1].get("version", "")
    return draft


def _dublin_core(form: Element) -> Draft:
    notes = texts_of(form, "description")
    dates = sorted(texts_of(form, "date"))
    return Draft(
        line=form.line,
        title=text_of(form, "title"),
        abstract=next((note for note in notes if not note.startswith(_COMMENT)), ""),
        comment=next((note[len(_COMMENT) :] for note in notes if note.startswith(_COMMENT)), ""),
        identifiers=texts_of(form, "identifier"),
        authors=texts_of(form, "creator"),
        subjects=texts_of(form, "subject"),
        submitted=dates[0] if dates else "",
        revised=dates[-1] if dates else "",
    )
