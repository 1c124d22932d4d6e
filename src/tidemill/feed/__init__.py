"""Papers: reading them from files, keeping them, listing and searching them, feeds out.

    from tidemill.feed import Library
    library = Library("papers.db"); library.migrate()
    library.import_file("page.txt")                  # 20 read, 20 new, 0 changed, 0 refused
    library.page(category="systems").total           # 20
    library.search('"KV cache" has:system').entries

It knows nothing about the web, nor about a system beyond its `System` value.
"""

from tidemill.feed.entry import (
    Category,
    Day,
    Entry,
    ImportReport,
    Link,
    Page,
    PageOutOfRange,
    Placing,
    Refusal,
    UnknownCategory,
    Version,
)
from tidemill.feed.library import Library

__all__ = [
    "Category",
    "Day",
    "Entry",
    "ImportReport",
    "Library",
    "Link",
    "Page",
    "PageOutOfRange",
    "Placing",
    "Refusal",
    "UnknownCategory",
    "Version",
]
