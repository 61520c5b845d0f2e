"""Imported by each interpreter that has this folder on its path: takes away what macOS lacks.

That is /proc, PDEATHSIG and subreapers, which the product uses where `sys.platform` is Linux alone, and
`os.waitid`, which Python has on macOS since 3.13. What the standard library and psutil choose by the system's
name is chosen before: the kernel below is that of Linux.
"""

import asyncio  # noqa: F401
import ctypes.util  # noqa: F401
import multiprocessing.connection
import multiprocessing.popen_spawn_posix
import multiprocessing.resource_tracker
import multiprocessing.util  # noqa: F401
import os
import sys
import sysconfig
import urllib.request  # noqa: F401

import psutil  # noqa: F401

sysconfig.get_config_vars()
del os.waitid
sys.platform = "darwin"
