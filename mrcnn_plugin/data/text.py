"""Text helpers for messages about datasets."""

from collections.abc import Iterable


def abbreviate(items: Iterable, limit: int, separator: str = ", ") -> str:
    """The first `limit` items, and the number of the others: "a, b and 3 more"."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more
