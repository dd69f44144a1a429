"""A phone made of Debian's adbd: its own root folder, network and users, so that nothing of this machine is reachable
through it. Run as a program inside `unshare -rmn`; it becomes adbd.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

PORT = 15555
"""Not one of 5555 to 5585: there adb looks for emulators by itself."""


def main(root: Path, adbd: str) -> None:
    with socket.socket() as any_socket:  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
    for name in ("usr", "bin", "lib", "lib64", "etc", "proc", "dev", "tmp"):
        if Path("/", name).is_dir():
            (root / name).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--rbind", Path("/", name), root / name], check=True)
    for file in root.glob("over/*"):  # files of another machine over those of this one's /proc
        subprocess.run(["mount", "--bind", file, root / "proc" / file.name], check=True)
    deny_vsock()
    os.chroot(root)
    os.chdir("/")
    os.environ.update(ADBD_PORT=str(PORT), PATH="/phone:/usr/bin:/bin", HOME="/data/local/tmp")
    os.execv(adbd, [adbd])


def deny_vsock() -> None:
    """adbd listens on vsock, too, asks nobody for a key, and vsock knows no namespaces: the call fails (x86-64, arm64:
    `socket` is 41 or 198).
    """
    call = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
    rules = [  # linux/bpf_common.h: load the call, then its first argument
        (0x20, 0, 0, 0), (0x15, 0, 3, call), (0x20, 0, 0, 16), (0x15, 0, 1, 40),
        (0x06, 0, 0, 0x00050000 | 97), (0x06, 0, 0, 0x7FFF0000),
    ]  # fmt: skip
    program = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(program)
    filter_ = struct.pack("H6xQ", len(rules), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
