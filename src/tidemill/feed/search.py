"""Running a query: FTS5 for the words, SQL for the rest, snippets for what is shown."""

from __future__ import annotations

from collections.abc import Callable, Collection

import sqlalchemy as sa

from tidemill.feed.markup import MARK, UNMARK, render_snippet
from tidemill.feed.query import Query, Term, day_of
from tidemill.feed.tables import category, paper, paper_category, paper_subject

Claims = Callable[[str], Collection[str] | None]

_TEXT = sa.table("paper_text", sa.column("rowid", sa.Integer), sa.column("rank", sa.Float))
_SNIPPET_WORDS = 40
_SNIPPETS = sa.text(
    f"SELECT rowid, snippet(paper_text, 1, '{MARK}', '{UNMARK}', '…', {_SNIPPET_WORDS}) "
    "FROM paper_text WHERE paper_text MATCH :wanted AND rowid IN :keys"
).bindparams(sa.bindparam("keys", expanding=True))


def _match(expression: str) -> sa.ColumnElement[bool]:
    return sa.literal_column("paper_text").op("MATCH", is_comparison=True)(expression)


class Search:
    """A query against the library.

    Every condition is one on keys, so that no row of a paper is read before it is shown: reading
    the 40,000 papers with a common word of 100,000 takes 130 ms, counting them in the index 2.

    Args:
        connection: For reading.
        query: What was understood of what the user typed.
        systems: Name of the installed system by the identity of its paper.
        claims: Tells for ``claim:WORD`` the names of the systems of which it is true.
    """

    def __init__(
        self,
        connection: sa.Connection,
        query: Query,
        systems: dict[str, str],
        claims: Claims | None,
    ) -> None:
        self._connection = connection
        self._systems = systems
        self._claims = claims
        self._wanted, self._unwanted = query.match()
        self.ignored = list(query.ignored)
        # "+ 0", or SQLite would ask FTS5 anew for each key of a category: 270 ms instead of 10
        self._among = _TEXT.c.rowid + 0 if self._wanted else paper.c.key
        conditions = [self._matches(), *map(self._condition, query.filters())]
        self._conditions = [condition for condition in conditions if condition is not None]

    def total(self) -> int:
        """How many papers match."""
        return self._connection.execute(self._select(sa.func.count())).scalar_one()

    def keys(self, *, offset: int, limit: int) -> list[int]:
        """The papers that match: best first, or newest first if the query has no words."""
        order = [_TEXT.c.rank] if self._wanted else [paper.c.announced.desc(), paper.c.place]
        key = _TEXT.c.rowid if self._wanted else paper.c.key
        ordered = self._select(key).order_by(*order).offset(offset).limit(limit)
        return list(self._connection.execute(ordered).scalars())

    def snippets(self, keys: list[int]) -> dict[int, str]:
        """Safe HTML of the place in the abstract that was found, by paper."""
        if not self._wanted or not keys:
            return {}
        rows = self._connection.execute(_SNIPPETS, {"wanted": self._wanted, "keys": keys})
        return {key: render_snippet(snippet) for key, snippet in rows}

    def _select(self, column: sa.ColumnElement[int]) -> sa.Select[int]:
        table = _TEXT if self._wanted else paper
        return sa.select(column).select_from(table).where(*self._conditions)

    def _matches(self) -> sa.ColumnElement[bool]:
        if self._wanted:
            return _match(
                f"({self._wanted}) NOT ({self._unwanted})" if self._unwanted else self._wanted
            )
        shown = paper.c.merged_into.is_(None)
        if not self._unwanted:
            return shown
        return shown & paper.c.key.not_in(sa.select(_TEXT.c.rowid).where(_match(self._unwanted)))

    def _condition(self, term: Term) -> sa.ColumnElement[bool] | None:
        keys = self._keys_of(term)
        if keys is None:
            self.ignored.append(f"{'-' * term.is_negated}{term.field}:{term.value}")
            return None
        return self._among.not_in(keys) if term.is_negated else self._among.in_(keys)

    def _keys_of(self, term: Term) -> sa.SelectBase | None:
        """The papers of which the term is true, its minus left aside; None if it means nothing."""
        shown = sa.select(paper.c.key).where(paper.c.merged_into.is_(None))
        if term.field == "after":
            return shown.where(paper.c.announced >= day_of(term))
        if term.field == "before":
            return shown.where(paper.c.announced < day_of(term))
        if term.field == "cat":
            return self._in_category(term.value.lower())
        if term.field == "has":
            return self._built(self._systems.values())
        names = self._claims(term.value.lower()) if self._claims else None
        return None if names is None else self._built(names)

    def _built(self, names: Collection[str]) -> sa.SelectBase:
        ids = [paper_id for paper_id, name in self._systems.items() if name in names]
        return sa.select(paper.c.key).where(paper.c.id.in_(ids))

    def _in_category(self, wanted: str) -> sa.SelectBase:
        shelves = self._connection.execute(sa.select(category)).mappings()
        keys = [
            shelf["key"]
            for shelf in shelves
            if wanted in (shelf["slug"], shelf["name_zh"].lower(), shelf["name_en"].lower())
        ]
        listed = sa.select(paper_category.c.paper).where(paper_category.c.category.in_(keys))
        subject = paper_subject.c.subject
        within = (subject >= f"{wanted}.") & (subject < f"{wanted}/")  # "cs" means all of "cs.…"
        filed = sa.select(paper_subject.c.paper).where((subject == wanted) | within)
        return listed.union_all(filed)
