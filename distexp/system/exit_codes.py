"""How a process has ended, in words, from its exit code. Pure."""

import signal

SHELL_SIGNALS = range(129, 129 + 64)  # 128 + signal, as shells pass on how what they ran was killed
WINDOWS_CRASHES = 0x80000000  # exit codes from here on are exceptions of Windows
CONTROL_C_EXIT = 0xC000013A  # of a process that Ctrl+C or Ctrl+Break has ended
WINDOWS_NAMES = {  # of <ntstatus.h>; the others are shown as numbers
    0x80000003: "STATUS_BREAKPOINT",
    0xC0000005: "STATUS_ACCESS_VIOLATION",
    0xC0000006: "STATUS_IN_PAGE_ERROR",
    0xC0000017: "STATUS_NO_MEMORY",
    0xC000001D: "STATUS_ILLEGAL_INSTRUCTION",
    0xC0000094: "STATUS_INTEGER_DIVIDE_BY_ZERO",
    0xC00000FD: "STATUS_STACK_OVERFLOW",
    0xC000012D: "STATUS_COMMITMENT_LIMIT",
    0xC0000135: "STATUS_DLL_NOT_FOUND",
    0xC0000139: "STATUS_ENTRYPOINT_NOT_FOUND",
    CONTROL_C_EXIT: "STATUS_CONTROL_C_EXIT",
    0xC0000142: "STATUS_DLL_INIT_FAILED",
    0xC0000374: "STATUS_HEAP_CORRUPTION",
    0xC0000409: "STATUS_STACK_BUFFER_OVERRUN",
    0xE06D7363: "an exception of C++",
}


def is_crash(code: int) -> bool:
    """Return whether the process, or what a shell ran in it, did not end by itself."""
    return code < 0 or code in SHELL_SIGNALS or code >= WINDOWS_CRASHES


def code_text(code: int | None) -> str:
    """Return an exit code as people look it up: `1`, `0xC0000005 (STATUS_ACCESS_VIOLATION)`."""
    if code is None or code < WINDOWS_CRASHES:
        return str(code)
    name = WINDOWS_NAMES.get(code)
    return f"0x{code:08X}" + (f" ({name})" if name else "")


def describe_exit(code: int) -> str:
    """Return how a process has ended: `exit code 1`, `killed by SIGSEGV`, `crashed with exit code 0x...`."""
    if code < 0:
        return _killed_by(-code)
    if code in SHELL_SIGNALS:
        return f"exit code {code}: what it ran was {_killed_by(code - 128)}"
    return f"crashed with exit code {code_text(code)}" if is_crash(code) else f"exit code {code}"


def _killed_by(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"killed by {name}{', perhaps for want of memory' if name == 'SIGKILL' else ''}"
