"""
Cursors: what a page gives is read back, and every other text is refused.
"""

from __future__ import annotations

import base64

import pytest

from processor.records.pages import CursorInvalid, identifier, page, read_cursor, row_number


def test_a_cursor_is_read_back() -> None:
    """
    The sort key of the last row comes back with the next page.
    """
    found = page(["1", "22", "333"], 2, lambda row: [row, "a"])

    assert found.rows == ["1", "22"]
    assert read_cursor(found.next_cursor, row_number, identifier) == [22, "a"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '["1"]',
        '["1","a","b"]',
        '{"1":"a"}',
        '"1a"',
        '[1,"a"]',
        '[1e999,"a"]',
        '[Infinity,"a"]',
        '[["1"],"a"]',
        '["1","\\u0000"]',
        '["-1","a"]',
        '["' + "9" * 300 + '","a"]',
        "[" * 300,
        "[" * 300 + "]" * 300,
        "[" * 100_000,
        '["1","' + "a" * 500 + '"]',
    ],
)
def test_any_other_text_is_no_cursor(text: str) -> None:
    """
    Other shapes, numbers beyond a row's, and deep or long texts have the same error.
    """
    with pytest.raises(CursorInvalid):
        read_cursor(base64.urlsafe_b64encode(text.encode()).decode().rstrip("="), row_number, identifier)
