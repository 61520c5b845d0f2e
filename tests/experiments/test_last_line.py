"""What an error quotes of a program's output, by what programs print when they end."""

import pytest

from distexp.experiments.last_line import MAX_QUOTED_CHARS, LastLine

HYDRA = "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."
TYRO = """\
╭─ Unrecognized options ───────────────────╮
│ Unrecognized options: --no_cuda          │
│ ──────────────────────────────────────── │
│ Perhaps you meant:                       │
│     --cuda, --no-cuda                    │
│ ──────────────────────────────────────── │
│ For full helptext, run dqn.py --help     │
╰──────────────────────────────────────────╯"""


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("Traceback (most recent call last):\n  File a\nValueError: no\n\n", "ValueError: no"),
        (f"overrides: []\n  File a\nValueError: no\n\n{HYDRA}\n", "ValueError: no"),
        (f"Could not override 'seed'.\nKey 'seed' is not in struct\n    full_key: seed\n\n{HYDRA}",
         "Key 'seed' is not in struct"),
        (f"mismatched input '='\nSee https://hydra.cc/docs for details\n\n{HYDRA}", "mismatched input '='"),
        ("FATAL Flags parsing error: Unknown flag 'nope'\nPass --helpshort or --helpfull to see help.",
         "FATAL Flags parsing error: Unknown flag 'nope'"),
        (f"Loading\n{TYRO}\n", "Unrecognized options: --no_cuda"),
        (f"{TYRO}\nValueError: no", "ValueError: no"),
        ("usage: t.py [--lr LR]\nt.py: error: unrecognized arguments: --helper",
         "t.py: error: unrecognized arguments: --helper"),
        ("Traceback (most recent call last):\nValueError: no checkpoint, see --help",
         "ValueError: no checkpoint, see --help"),
        ("Training\nno such flag: --helper_dim", "no such flag: --helper_dim"),
        ("┃ epoch ┃\n│ 1 │\n└───┘\n┃ epoch ┃\n│ 2 │", "2"),
        ("Training\n    epoch 3", "epoch 3"),
        ("done\n=======\n\n", "done"),
        ("usage: see --help", "usage: see --help"),
        ("10%\r100%", "100%"),
        ("\ufeffdone\x1b[0m", "done\\x1b[0m"),
        ("x" * 1000, "x" * MAX_QUOTED_CHARS),
        ("", ""),
    ],
)  # fmt: skip
def test_the_line_that_says_how_a_program_ended_is_quoted(output: str, said: str) -> None:
    last = LastLine()
    for line in output.split("\n"):
        last.take(line)
    assert last.text == said
