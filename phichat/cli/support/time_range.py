"""Times as users type them."""

import re
from datetime import datetime, timedelta

from phichat.errors import UsageError

_UNIT_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400, "y": 365 * 86_400}
_RELATIVE = re.compile(r"(\d{1,4}) ?(min|h|d|w|mo|y)(?:[a-z]*)(?: ago)?")


def parse_time_range(text: str, now: datetime) -> tuple[datetime, datetime]:
    """Return start and end: of the day for a date, today or yesterday; else twice the same moment.

    now: its time zone applies to times without one. Raises UsageError.
    """
    normalized = " ".join(text.lower().split())
    day = timedelta(days=1)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if normalized in ("today", "yesterday"):
            start = today if normalized == "today" else today - day
            return start, start + day
        if normalized == "now":
            return now, now
        if relative := _RELATIVE.fullmatch(normalized):
            moment = now - timedelta(seconds=int(relative[1]) * _UNIT_SECONDS[relative[2]])
            return moment, moment
        moment = datetime.fromisoformat(normalized.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=now.tzinfo)
        return moment, moment + day if re.fullmatch(r"\d{4}-?\d\d-?\d\d", normalized) else moment
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time", "Use 2026-03-01, yesterday, 7d or 3h") from None
