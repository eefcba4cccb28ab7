"""What `distgan doctor` prints, read again."""

import re


def states(out: str) -> dict[str, str]:
    """The state of each line of the table; a line that goes on begins with blanks."""
    found = [re.match(r"(\S.*?) {2,}(ok|note|problem) ", line) for line in out.splitlines()]
    return {match[1]: match[2] for match in found if match}


def words(out: str) -> str:
    """As if nothing was wrapped."""
    return " ".join(out.split())
