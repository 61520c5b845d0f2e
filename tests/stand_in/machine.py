"""Write scenarios for the stand-in `pynvml` beside this file, and environments where a process sees one."""

import json
import os
from pathlib import Path

STAND_IN = Path(__file__).parent
ROOT = STAND_IN.parent.parent


def gpu(number=0, free_mib=20000, *, total_mib=40960, **more):
    """Return one GPU of a scenario; `more` overrides or adds any of its fields."""
    uuid = f"GPU-{number:08d}-aaaa-bbbb-cccc-dddddddddddd"
    return {"uuid": uuid, "name": "NVIDIA A100", "free_mib": free_mib, "total_mib": total_mib, **more}


def mig_instance(number=0, free_mib=9000, **more):
    """Return one MIG instance for the `mig` list of a GPU."""
    return gpu(free_mib=free_mib, total_mib=9984) | {
        "uuid": f"MIG-{number:08d}-aaaa-bbbb-cccc-dddddddddddd",
        "name": "NVIDIA A100 MIG 2g.10gb",
        "utilization_pct": None,
        **more,
    }


def write_scenario(path, *gpus, init=None):
    """Write the machine to `path`, whole at once: a process that reads it sees the old one or the new one."""
    fresh = Path(f"{path}.new")
    fresh.write_text(json.dumps({"init": init, "gpus": list(gpus)}))
    os.replace(fresh, path)


def environment(scenario, claims):
    """Return the environment of a process that sees the machine of `scenario` and claims in `claims`."""
    hidden = ("CUDA_VISIBLE_DEVICES", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {
        "FAKE_NVML_SCENARIO": str(scenario),
        "EXPERIMENT_GPU_CLAIMS": str(claims),
        "PYTHONPATH": os.pathsep.join((str(STAND_IN), str(ROOT))),
    }
