"""Dates as sources write them, and arXiv's calendar of announcements."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

_FIRST_YEAR, _LAST_YEAR = 1900, 2199
"""What a date may be; outside of it a number is not a year (and time zones overflow)."""

_MONTHS = dict(
    jan=1, feb=2, mar=3, apr=4, may=5, jun=6, jul=7, aug=8, sep=9, oct=10, nov=11, dec=12
)
_YMD = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})(?:\s*[-/.月]\s*(\d{1,2})?\s*日?)?[/\s]*")
_WEEKDAY, _TIME = r"(?:[A-Za-z]{3,9}\.?,\s*)?", r"(?:\s+\d{1,2}:\d\d\b.*)?"
_DAY, _MONTH, _YEAR = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?", r"(?P<m>[A-Za-z]{3,9})\.?", r"(?P<y>\d{4})"
_WORDS = (
    re.compile(rf"{_WEEKDAY}{_DAY}\s+{_MONTH},?\s+{_YEAR}{_TIME}"),
    re.compile(rf"{_WEEKDAY}{_MONTH}\s+{_DAY},?\s+{_YEAR}{_TIME}"),
)
_CLOCKED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_CLOCKED_RFC = re.compile(r"\d{1,2}:\d\d")

_DEADLINE = time(14)


def parse_moment(text: str) -> datetime | None:
    """The moment that ``text`` says, in UTC; a bare date is its midnight; None if it says none."""
    text = text.strip()
    try:
        if _CLOCKED.match(text):
            moment = datetime.fromisoformat(text)
        elif _CLOCKED_RFC.search(text):
            moment = parsedate_to_datetime(text)
        else:
            day = parse_date(text)
            return None if day is None else datetime.combine(day, time(), UTC)
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):  # the last two are parsedate_to_datetime's
        return None


def parse_date(text: str) -> date | None:
    """The day that ``text`` says as the source's own clock had it; None if it says none.

    Reads ISO 8601, RFC 822, 2026/06/23, 2026年6月23日, 23 June 2026, June 23, 2026 and, without a
    day, 2026-06: the first of that month.
    """
    text = text.strip()
    try:
        if found := _YMD.fullmatch(text[:10] if _CLOCKED.match(text) else text):
            year, month, day = int(found[1]), int(found[2]), int(found[3] or 1)
        elif found := next(filter(None, (words.fullmatch(text) for words in _WORDS)), None):
            year, month, day = int(found["y"]), _MONTHS[found["m"][:3].lower()], int(found["d"])
        else:
            return None
        return date(year, month, day) if _FIRST_YEAR <= year <= _LAST_YEAR else None
    except (ValueError, KeyError):
        return None


def announcement_day(submitted: datetime) -> date:
    """The day on which arXiv announces what was submitted then, its holidays left out.

    It announces from Sunday to Thursday at 20:00 in New York what came in before 14:00; in UTC that
    moment is already the next day, from Monday to Friday, which is the day its listings name.
    Source: info.arxiv.org/help/availability.
    """
    local = submitted.astimezone(ZoneInfo("America/New_York"))
    day = local.date() if local.time() < _DEADLINE else local.date() + timedelta(days=1)
    weekday = day.weekday()
    to_evening = {4: 2, 5: 2, 6: 1}.get(weekday, 0)  # Friday's on Sunday, the weekend's on Monday
    return day + timedelta(days=to_evening + 1)
