"""What a row says of the software and the GPU: as it is, or empty."""

import subprocess
import sys

import pytest
import torch

from distexp.worker import provenance


def test_torch_is_told_where_the_task_has_imported_it_and_no_memory_without_a_card() -> None:
    assert provenance.of_process()["torch_version"] == torch.__version__
    if not torch.cuda.is_available():
        assert "peak_gpu_mib" not in provenance.of_process()


def test_torch_is_not_imported_to_be_told() -> None:
    program = (
        "import sys; from distexp.worker import provenance; "
        "print(provenance.of_process(), 'torch' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "{'torch_version': ''} False"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_the_most_memory_that_torch_held_on_the_card_is_told_in_mib() -> None:
    torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    assert 64 <= provenance.of_process()["peak_gpu_mib"] < 1024
