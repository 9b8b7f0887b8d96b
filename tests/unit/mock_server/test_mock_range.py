import pytest
from hypothesis import given
from hypothesis import strategies as st

from mock_server.messages import ByteRange, Unsatisfiable, asked_range, parse_range

sizes = st.integers(0, 1000)
offsets = st.integers(0, 1200)


@given(sizes, offsets, offsets)
def test_a_closed_range_is_the_slice_of_the_file(size: int, first: int, last: int) -> None:
    data = bytes(index % 251 for index in range(size))
    header = f"bytes={first}-{last}"
    if last < first:
        assert None is parse_range(header, size)
    elif first >= size:
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    else:
        found = parse_range(header, size)
        assert found is not None
        assert data[first : last + 1] == data[found.start : found.stop]


@given(sizes, offsets)
def test_an_open_range_reaches_the_end(size: int, first: int) -> None:
    if first >= size:
        with pytest.raises(Unsatisfiable):
            parse_range(f"bytes={first}-", size)
    else:
        assert ByteRange(start=first, stop=size) == parse_range(f"bytes={first}-", size)


@given(st.integers(1, 1000), st.integers(1, 1200))
def test_a_suffix_is_the_last_bytes(size: int, count: int) -> None:
    assert ByteRange(start=max(size - count, 0), stop=size) == parse_range(f"bytes=-{count}", size)


@given(st.text(max_size=30), sizes)
def test_any_other_header_is_ignored_or_refused_but_never_breaks(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found.start < found.stop <= size


@pytest.mark.parametrize("header", [None, "bytes=", "bytes=-", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=5-4"])
def test_what_is_not_one_range_is_ignored(header: str | None) -> None:
    assert None is parse_range(header, 100)


def test_an_empty_suffix_cannot_be_satisfied() -> None:
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=-0", 100)


def test_rules_and_ledger_see_the_range_as_asked() -> None:
    headers = ["bytes=0-9", "bytes=5-", "bytes=-5", "bytes=-5", "nonsense", None]
    sizes = [4, 4, 20, None, 4, 4]
    expected = [(0, 10), (5, None), (15, 20), (-5, None), None, None]
    assert expected == [asked_range(header, size) for header, size in zip(headers, sizes, strict=True)]
