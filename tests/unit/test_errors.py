"""What a run that fails in several places at once says."""

from __future__ import annotations

import pytest

from fetchverify.errors import DiskError, FetchverifyError, NetworkError, ungrouped


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([NetworkError("one")], "one"),
        ([NetworkError("one"), NetworkError("two")], "one"),
        ([NetworkError("one"), ExceptionGroup("within", [DiskError("full")])], "full"),
        ([OSError("bare"), DiskError("full")], "full"),
    ],
)
def test_one_error_of_ours_speaks_for_its_group_the_disks_first(errors: list[Exception], said: str) -> None:
    with pytest.raises(FetchverifyError) as caught, ungrouped():
        raise ExceptionGroup("tasks", errors)
    assert said == caught.value.message


def test_a_group_that_holds_nothing_of_ours_stays_as_it_is() -> None:
    group = ExceptionGroup("tasks", [ValueError("a bug")])
    with pytest.raises(ExceptionGroup) as caught, ungrouped():
        raise group
    assert group is caught.value
