"""Text of messages, tables and pictures: a count with its noun, and a shortened name."""


def pluralize(num: int, noun: str) -> str:
    """Return `1 file` or `2,000 files`."""
    return f"{num:,} {noun}{'s' * (num != 1)}"


def one_line(name: str) -> str:
    r"""Return a name with its line breaks and tabs escaped, as `\n`: a folder, and so a class, may have any."""
    return name.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def truncate(name: str, most: int) -> str:
    """Return a name of at most `most` letters, of a longer one the first, with an ellipsis in place of the last."""
    return name if len(name) <= most else name[: most - 1] + "…"
