"""Parse the output of `distgan doctor`."""

import re


def states(out: str) -> dict[str, str]:
    """Return the state of each check; a continuation line begins with blanks."""
    matches = [re.match(r"(\S.*?) {2,}(ok|note|problem) ", line) for line in out.splitlines()]
    return {match[1]: match[2] for match in matches if match}


def words(out: str) -> str:
    """Return the output with wrapped lines joined."""
    return " ".join(out.split())
