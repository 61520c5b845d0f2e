"""`convert`: a W&B sweep file from the command line."""

import subprocess
import sys
from pathlib import Path


def test_a_file_is_converted_and_another_gets_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    command = [sys.executable, "-m", "distexp", "convert", str(path)]
    path.write_text("program: t.py\nmethod: grid\nparameters: {lr: {values: [0.1, 0.01]}}\n")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        'defaults:\n  command: "python t.py {args}"\n  output_dir: "./results_{phase}"\n'
        "sweep:\n  combinations:\n    - lr: [0.1, 0.01]\n"
    )
    path.write_text("a: 1\n")
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == (
        f"error: {path}: is no W&B sweep: that has `method` and a mapping `parameters`; "
        "docs/sweeps.md tells what those of other tools are here\n"
    )
