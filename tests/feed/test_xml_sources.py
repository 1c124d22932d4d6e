"""arXiv's interface, its daily feeds and its harvests, and other people's feeds."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from paper_builders import ABSTRACT, one, refusal

from tidemill.feed.entry import Refusal
from tidemill.feed.formats import Unreadable, parse
from tidemill.feed.raw import Certainty, RawEntry

ATOM = "http://www.w3.org/2005/Atom"
SPACES = f'xmlns="{ATOM}" xmlns:arxiv="http://arxiv.org/schemas/atom"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:arxiv="http://arxiv.org/schemas/atom"'
OAI = "http://www.openarchives.org/OAI/2.0/"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def atom(entry: str) -> str:
    return f"{DECLARATION}<feed {SPACES}><title>x</title>{entry}</feed>"


def rss(item: str, channel: str = "") -> str:
    return f'{DECLARATION}<rss version="2.0" {DC}><channel>{channel}{item}</channel></rss>'


def harvest(
    metadata: str,
    header: str = "<header><identifier>oai:arXiv.org:2606.24417</identifier></header>",
) -> str:
    record = f"<record>{header}<metadata>{metadata}</metadata></record>"
    return f'{DECLARATION}<OAI-PMH xmlns="{OAI}"><ListRecords>{record}</ListRecords></OAI-PMH>'


def test_an_answer_of_arxivs_interface() -> None:
    found = one(
        atom(
            f"""<entry><id>http://arxiv.org/abs/2606.24417v2</id>
            <updated>2026-06-21T01:00:00Z</updated><published>2026-06-19T17:00:00Z</published>
            <title>A Title
              in Two Lines</title><summary>  {ABSTRACT}
            </summary><author><name>Ada Lovelace</name></author><author>
            <name>Kurt G\\"odel</name></author>
            <arxiv:comment>12 pages</arxiv:comment><arxiv:journal_ref>Journal 1</arxiv:journal_ref>
            <arxiv:doi>10.1000/xyz</arxiv:doi>
            <link href="http://arxiv.org/abs/2606.24417v2" rel="alternate"/>
            <link title="pdf" href="http://arxiv.org/pdf/2606.24417v2" rel="related"/>
            <link href="https://code.example/x" rel="related"/>
            <link href="https://no.example" rel="self"/>
            <arxiv:primary_category term="cs.LG"/><category term="cs.DC"/>
            <category term="cs.LG"/></entry>"""
        )
    )
    assert found == RawEntry(
        line=2,
        title="A Title in Two Lines",
        abstract=ABSTRACT,
        announced=date(2026, 6, 22),  # submitted on a Friday afternoon of New York before 14:00
        certainty=Certainty.RECKONED,
        arxiv_id="2606.24417",
        version=2,
        submitted=datetime(2026, 6, 19, 17, tzinfo=UTC),
        revised=datetime(2026, 6, 21, 1, tzinfo=UTC),
        authors=("Ada Lovelace", "Kurt Gödel"),
        subjects=("cs.LG", "cs.DC"),
        doi="10.1000/xyz",
        journal_ref="Journal 1",
        comment="12 pages",
        links=("https://code.example/x",),
    )


@pytest.mark.parametrize("kind", ["new", "cross", "replace", "replace-cross"])
def test_arxivs_feed_of_the_day_as_rss_and_as_atom(kind: str) -> None:
    notice = f"arXiv:2606.24417v1 Announce Type: {kind} \nAbstract: We show $x&lt;y$. {ABSTRACT}"
    item = f"""<item><title>Small &amp; Fine</title><link>https://arxiv.org/abs/2606.24417</link>
        <description>{notice}</description>
            <guid isPermaLink="false">oai:arXiv.org:2606.24417v1</guid>
        <category>cs.AI</category><pubDate>Tue, 23 Jun 2026 00:00:00 -0400</pubDate>
        <arxiv:announce_type>{kind}</arxiv:announce_type><dc:rights>CC BY</dc:rights>
        <dc:creator>Ada Lovelace, Alan Turing (Cambridge (UK)) and Grace Hopper</dc:creator>
        </item>"""
    entry = f"""<entry {DC}><id>oai:arXiv.org:2606.24417v1</id><title>Small &amp; Fine</title>
        <link href="https://arxiv.org/abs/2606.24417" rel="alternate"/><summary>{notice}</summary>
        <category term="cs.AI"/><published>2026-06-23T00:00:00-04:00</published>
        <updated>2026-06-23T04:00:00Z</updated><arxiv:announce_type>{kind}</arxiv:announce_type>
        <dc:rights>CC BY</dc:rights>
        <dc:creator>Ada Lovelace, Alan Turing, Grace Hopper</dc:creator></entry>"""
    of_rss, of_atom = one(rss(item)), one(atom(entry))
    assert of_rss.to_json() == of_atom.to_json()
    assert of_rss.abstract == f"We show $x<y$. {ABSTRACT}"
    assert of_rss.authors == ("Ada Lovelace", "Alan Turing", "Grace Hopper")
    assert (of_rss.announced, of_rss.announce_type, of_rss.version) == (date(2026, 6, 23), kind, 1)
    # the notice of a new version does not say when the paper was announced
    is_first = kind in ("new", "cross")
    assert of_rss.certainty == (Certainty.SAID if is_first else Certainty.ABOUT)


def test_rss_1_0_of_before_2024() -> None:
    found = one(
        f"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
        xmlns="http://purl.org/rss/1.0/" {DC}>
        <channel><dc:date>2020-01-07T20:30:00-05:00</dc:date></channel>
        <item><title>A Title. (arXiv:2001.00001v1 [cs.LG])</title>
            <link>http://arxiv.org/abs/2001.00001</link>
        <description>&lt;p&gt;{ABSTRACT} x &amp;lt; y&lt;/p&gt;</description>
        <dc:creator>&lt;a href="http://arxiv.org/find/1"&gt;Ada Lovelace&lt;/a&gt;, B</dc:creator>
        </item></rdf:RDF>"""
    )
    assert (found.title, found.arxiv_id, found.version) == ("A Title.", "2001.00001", 1)
    assert (found.abstract, found.authors) == (f"{ABSTRACT} x < y", ("Ada Lovelace", "B"))
    assert found.announced == date(2020, 1, 7)


def test_anybodys_feed() -> None:
    found = one(
        atom(
            f"""<entry><id>https://blog.example/1</id>
            <title type="html">On &lt;i&gt;Tides&lt;/i&gt;</title>
            <updated>2026-06-23T22:00:00Z</updated><link href="https://blog.example/1"/>
            <content type="xhtml"><div
            xmlns="http://www.w3.org/1999/xhtml">{ABSTRACT} <b>So.</b></div>
            </content>
            </entry>"""
        )
    )
    assert found.id.startswith("title:")
    assert (found.title, found.abstract) == ("On Tides", f"{ABSTRACT} So.")
    assert (found.announced, found.links) == (date(2026, 6, 23), ("https://blog.example/1",))


def test_a_harvest_in_each_of_arxivs_formats() -> None:
    words = f"<title>A Title</title><abstract>{ABSTRACT}</abstract>"
    of_arxiv = one(
        harvest(
            f"""<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>2606.24417</id>
            <created>2026-06-22</created>
            <updated>2026-07-01</updated><authors><author><keyname>Lovelace</keyname>
            <forenames>Ada</forenames>
            </author><author><keyname>King</keyname><forenames>M.</forenames>
            <suffix>Jr</suffix></author></authors>
            {words}<categories>cs.LG cs.DC</categories><license>http://l</license><doi>10.1000/xyz</doi></arXiv>"""
        )
    )
    of_raw = one(
        harvest(
            f"""<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>2606.24417</id>
            <submitter>x</submitter>
            <version version="v1"><date>Mon, 22 Jun 2026 00:00:00 GMT</date></version>
            <version version="v2"><date>Wed, 01 Jul 2026 00:00:00 GMT</date></version>
            <authors>Ada Lovelace, M. King Jr</authors>{words}<categories>cs.LG cs.DC</categories>
            <license>http://l</license><doi>10.1000/xyz</doi></arXivRaw>"""
        )
    )
    of_core = one(
        harvest(
            f"""<oai_dc:dc xmlns:oai_dc="{OAI}oai_dc/" {DC}><dc:title>A Title</dc:title>
            <dc:creator>Lovelace, Ada</dc:creator>
            <dc:subject>Computer Science - Machine Learning</dc:subject>
            <dc:description>Comment: 12 pages</dc:description>
            <dc:description>{ABSTRACT}</dc:description>
            <dc:date>2026-07-01</dc:date><dc:date>2026-06-22</dc:date>
            <dc:identifier>http://arxiv.org/abs/2606.24417</dc:identifier></oai_dc:dc>"""
        )
    )
    assert of_arxiv.authors == of_raw.authors == ("Ada Lovelace", "M. King Jr")
    assert of_arxiv.subjects == of_raw.subjects == ("cs.LG", "cs.DC")
    assert (of_raw.version, of_core.comment) == (2, "12 pages")
    for found in (of_arxiv, of_raw, of_core):
        assert (found.id, found.title, found.abstract) == ("arxiv:2606.24417", "A Title", ABSTRACT)
        assert found.submitted == datetime(2026, 6, 22, tzinfo=UTC)
        assert found.revised == datetime(2026, 7, 1, tzinfo=UTC)
        assert found.announced == date(2026, 6, 23)


def test_a_deleted_record_is_told_and_not_taken() -> None:
    header = '<header status="deleted"><identifier>oai:arXiv.org:1</identifier></header>'
    assert refusal(harvest("", header)) == Refusal(2, "deleted at the source: oai:arXiv.org:1")


def test_a_record_without_metadata_or_with_bare_records_is_read_as_far_as_it_goes() -> None:
    assert refusal(f'<ListRecords xmlns="{OAI}"><record/></ListRecords>') == Refusal(1, "no title")


@pytest.mark.parametrize(
    "empty", [atom(""), rss(""), f'<OAI-PMH xmlns="{OAI}"><ListRecords/></OAI-PMH>']
)
def test_a_feed_of_a_day_without_announcements_is_no_error(empty: str) -> None:
    assert parse(empty.encode()) == []


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (
            atom(
                "\n\n<entry><id>http://arxiv.org/api/errors#incorrect_id_format</id><title>Error</title>"
                "<summary>incorrect id format</summary></entry>"
            ),
            4,
            "holds arXiv's answer 'incorrect id format'",
        ),
        (
            f'<OAI-PMH xmlns="{OAI}">\n<error code="noRecordsMatch">none</error></OAI-PMH>',
            2,
            "holds an error of OAI-PMH: noRecordsMatch none",
        ),
        (f"{DECLARATION}<opml/>", 2, "XML of an unknown kind, <opml>"),
        (atom("<entry>")[:-7], 2, "not well-formed XML"),
        (rss("<item>")[:80], 2, "not well-formed XML"),
        (f"{DECLARATION}<!DOCTYPE feed><feed/>", 2, "XML with a document type or entities"),
        (
            '<!DOCTYPE a [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>\n<feed>&b;</feed>',
            1,
            "XML with a document type or entities",
        ),
        (
            '<?xml version="1.0"?>\n<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><feed>&x;</feed>',
            2,
            "XML with a document type or entities",
        ),
        (f"{DECLARATION}\n<feed>" + "<a>" * 100_000, 3, "XML nested deeper than 100 levels"),
        (atom("<entry>&undefined;</entry>"), 2, "not well-formed XML: undefined entity"),
    ],
)  # fmt: skip
def test_xml_that_cannot_be_used_is_refused_with_its_line(
    content: str, line: int, reason: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        parse(content.encode())
    assert refused.value.line == line
    assert refused.value.reason.startswith(reason)


def test_an_entry_is_refused_with_the_line_on_which_it_begins() -> None:
    words = f"<title>T</title><summary>{ABSTRACT}</summary>"
    good = f"<entry>{words}<published>2026-06-23</published></entry>\n"
    found = parse(atom(f"\n{good}<entry><title>T</title></entry>\n{good}").encode())
    assert [entry.line for entry in found] == [3, 4, 5]
    assert isinstance(found[1], Refusal)
