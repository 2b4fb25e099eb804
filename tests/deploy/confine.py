"""Run a command as a unit does, as far as a process can do it to itself: `confine.py UNIT COMMAND [ARGUMENT ...]`.

The unit's system call filter, NoNewPrivileges and MemoryDenyWriteExecute; its LimitCORE and UMask.
"""

import ctypes
import errno
import os
import re
import resource
import struct
import subprocess
import sys
from pathlib import Path

from deploy_support import Unit

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ, BPF_RET
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: object) -> None:
    if _libc.prctl(option, *[ctypes.c_ulong(a) if isinstance(a, int) else a for a in (*arguments, 0, 0, 0)][:4]):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def system_calls(group: str) -> set[str]:
    """The system calls of a group such as @system-service, as systemd knows them."""
    listing = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    calls: set[str] = set()
    for word in re.findall(r"(?m)^ +([@\w-]+)$", listing.stdout):
        calls |= system_calls(word) if word.startswith("@") else {word}
    return calls


def allowed_calls(filters: list[str]) -> set[str]:
    """What is left by SystemCallFilter= lines of which the first is an allow-list."""
    allowed = system_calls("@default")
    for line in filters:
        groups = line.removeprefix("~").split()
        calls = set().union(*(system_calls(word) if word.startswith("@") else {word} for word in groups))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def _numbers() -> dict[str, int]:
    """The numbers of this machine's system calls, as its C compiler knows them."""
    command = ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-"]
    macros = subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", macros)}


def _filter_system_calls(allowed: set[str]) -> None:
    numbers = _numbers()
    program = [struct.pack("HBBI", _LOAD, 0, 0, 0)]  # the number of the system call
    for name in sorted(allowed & numbers.keys()):
        program += [
            struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, numbers[name]),
            struct.pack("HBBI", _RETURN, 0, 0, _ALLOW),
        ]
    program.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | errno.EPERM))
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header))


def main() -> None:
    unit = Unit(Path(sys.argv[1]))
    core = int(unit.one("LimitCORE"))
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    os.umask(int(unit.one("UMask"), 8))
    allowed = allowed_calls(unit.all("SystemCallFilter"))
    if unit.one("NoNewPrivileges") == "yes":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if unit.one("MemoryDenyWriteExecute") == "yes":
        try:
            _prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel before 6.3 does not know it
                raise
    _filter_system_calls(allowed)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execve(sys.argv[2], sys.argv[2:], environment)


if __name__ == "__main__":
    main()
