"""`make same-as`: what it leaves out of a comparison it prints."""

from same_as import without_new_rows

ROW = "<div><dt>{}</dt><dd>{}</dd></div>\n"


def test_rows_that_the_older_page_lacks_are_left_out_and_named() -> None:
    before = ROW.format("batch size", 64) + ROW.format("loss", "bce")
    after = ROW.format("batch size", 32) + ROW.format("mirror", "off") + ROW.format("loss", "bce")
    rest, dropped = without_new_rows(before, after)
    assert dropped == ["mirror: off"]
    assert rest == ROW.format("batch size", 32) + ROW.format("loss", "bce"), "a changed row is compared"
