"""A system call filter in classic BPF, put together by hand: no network, no programs, no foreign processes.

Denied calls fail with EPERM, so that a library that merely tries goes on. Numbers are those of Linux's
`arch/*/include/uapi/asm/unistd.h`; a test compares them with the headers where they are installed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_NETWORK = "socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg"
_PROGRAMS = "execve execveat fork vfork"
_PROCESSES = (
    "ptrace process_vm_readv process_vm_writev kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open "
    "pidfd_send_signal pidfd_getfd process_madvise setpriority prlimit64"
)
_KERNEL = (
    "unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsmount fsconfig mount_setattr bpf "
    "perf_event_open userfaultfd add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register "
    "open_by_handle_at init_module finit_module delete_module kexec_load reboot swapon swapoff acct quotactl "
    "settimeofday clock_settime sethostname setdomainname"
)
_FILES = (
    "unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir mknod mknodat "
    "chmod fchmod fchmodat chown fchown lchown fchownat truncate ftruncate setxattr creat"
)
DENIED = " ".join((_NETWORK, _PROGRAMS, _PROCESSES, _KERNEL, _FILES)).split()

# name: (x86_64, aarch64); None where the architecture lacks the call
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "recvmmsg": (299, 243), "execve": (59, 221),
    "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "setpriority": (141, 140), "prlimit64": (302, 261), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432),
    "fsconfig": (431, 431), "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "truncate": (76, 45), "ftruncate": (77, 46), "setxattr": (188, 5), "creat": (85, None),
    "arch_prctl": (158, None),
}  # fmt: skip

_COLUMNS = {"x86_64": 0, "aarch64": 1}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000
_REQUEST_AMX = 0x1023  # ARCH_REQ_XCOMP_PERM

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, (16, 24)  # struct seccomp_data, low words of the first two arguments

Program = list[tuple[int, int, int, int]]
"""Instructions (code, jump if true, jump if false, operand)."""


def worker_filter(machine: str = "") -> Program:
    """What a worker may not do; empty on an architecture whose numbers are not known here.

    `clone` is for threads only; `clone3`, whose flags a filter cannot see, answers ENOSYS and glibc falls back;
    `tgkill` reaches this process alone (`abort` needs it).
    """
    machine = machine or platform.machine()
    column = _COLUMNS.get(machine)
    if column is None:
        return []
    program = _prologue(machine)
    for name in DENIED:
        number = NUMBERS[name][column]
        if number is not None:
            program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    program += _answer(column, "clone3", errno.ENOSYS)
    program += _on_argument(column, "clone", 0, _JUMP_SET, _CLONE_THREAD)
    program += _on_argument(column, "tgkill", 0, _JUMP_EQUAL, os.getpid())
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def without_amx() -> Program:
    """Only: the request for AMX fails. Empty elsewhere than on x86-64."""
    if platform.machine() != "x86_64":
        return []
    return [
        *_prologue("x86_64"),
        (_JUMP_EQUAL, 0, 3, NUMBERS["arch_prctl"][0] or 0),
        (_LOAD, 0, 0, _ARGUMENT_AT[0]),
        (_JUMP_EQUAL, 0, 1, _REQUEST_AMX),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _prologue(machine: str) -> Program:
    """Kill on calls of a foreign architecture, whose numbers mean other things; leave the number loaded."""
    program = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    return program


def _answer(column: int, name: str, error: int) -> Program:
    return [(_JUMP_EQUAL, 0, 1, NUMBERS[name][column] or 0), (_RETURN, 0, 0, _FAIL | error)]


def _on_argument(column: int, name: str, argument: int, test: int, operand: int) -> Program:
    """Allow `name` when `test` holds of its argument's low word, else EPERM; other calls go on below."""
    return [
        (_JUMP_EQUAL, 0, 4, NUMBERS[name][column] or 0),
        (_LOAD, 0, 0, _ARGUMENT_AT[argument]),
        (test, 0, 1, operand),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install(program: Program) -> bool:
    """Put the filter on this thread and all it will start; False where the kernel has no filters. Needs
    `no_new_privs`.
    """
    if not program:
        return False
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = _FilterProgram(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    set_seccomp, filter_mode = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    return bool(ctypes.CDLL(None).prctl(set_seccomp, filter_mode, ctypes.byref(argument), 0, 0) == 0)
