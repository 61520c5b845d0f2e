"""Exit codes in words."""

import pytest

from distexp.system.exit_codes import code_text, describe_exit, is_crash


@pytest.mark.parametrize(
    ("code", "words", "has_crashed"),
    [
        (1, "exit code 1", False),
        (-11, "killed by SIGSEGV", True),
        (-9, "killed by SIGKILL, perhaps for want of memory", True),
        (137, "exit code 137: what it ran was killed by SIGKILL, perhaps for want of memory", True),
        (0xC0000005, "crashed with exit code 0xC0000005 (STATUS_ACCESS_VIOLATION)", True),
        (0xC000013A, "crashed with exit code 0xC000013A (STATUS_CONTROL_C_EXIT)", True),
        (0xC0FFEE00, "crashed with exit code 0xC0FFEE00", True),
    ],
)
def test_an_exit_code_is_said_as_people_look_it_up(code: int, words: str, has_crashed: bool) -> None:
    assert (describe_exit(code), is_crash(code)) == (words, has_crashed)


def test_an_exit_code_that_is_not_known_yet_is_said_to_be_none() -> None:
    assert code_text(None) == "None"
