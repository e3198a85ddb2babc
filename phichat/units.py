"""Sizes, durations and counts as text."""


def format_size(count: int) -> str:
    """Return bytes in kB, MB or GB, powers of 1000."""
    if count < 1_000_000:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1_000_000_000 else f"{count / 1e9:.2f} GB"


def format_duration(seconds: float) -> str:
    """Return seconds as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun, with an s unless it is 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
