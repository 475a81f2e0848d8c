"""A file system that answers until it is told not to: ``dead_fuse.py FOLDER PROGRAM``.

It mounts itself on FOLDER and shows one file, ``program``, with the content of PROGRAM. It prints
``mounted``; after a line on standard input it answers no READ any more and prints ``dead``: whoever
reads the file then waits for as long as this process lives. A file that is opened with O_NOATIME is
opened for direct input and output. The protocol is that of include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys
from pathlib import Path

_HEAD_IN = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_HEAD_OUT = struct.Struct("=IiQ")  # length, error, unique
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_READ_IN = struct.Struct("=QQI")  # file, offset, size
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 29, 36, 42
_WITHOUT_ANSWER = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_ROOT, _PROGRAM = 1, 2
_DIRECT_IO = 1
_REQUEST_BYTES = 1 << 20
_MNT_DETACH = 2


def main() -> None:
    """Serves until it is killed."""
    folder, program = sys.argv[1:]
    served = _Served(Path(program).read_bytes())
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options.encode()):
        sys.exit(f"it cannot be mounted: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    waiting = [fd, 0]
    while True:
        readable, _, _ = select.select(waiting, [], [])
        if 0 in readable:
            os.read(0, 100)
            served.is_dead = True
            waiting.remove(0)
            print("dead", flush=True)
        elif (answer := served.answer(os.read(fd, _REQUEST_BYTES))) is not None:
            os.write(fd, answer)


class _Served:
    """The one file, and what is answered about it."""

    def __init__(self, content: bytes) -> None:
        self.is_dead = False
        self._content = content

    def answer(self, request: bytes) -> bytes | None:
        """What goes back to the kernel; None: nothing does."""
        _, opcode, unique, node, *_ = _HEAD_IN.unpack_from(request)
        if opcode in _WITHOUT_ANSWER or (self.is_dead and opcode == _READ):
            return None
        said = self._said(opcode, node, request[_HEAD_IN.size :])
        if isinstance(said, int):
            return _HEAD_OUT.pack(_HEAD_OUT.size, -said, unique)
        return _HEAD_OUT.pack(_HEAD_OUT.size + len(said), 0, unique) + said

    def _said(self, opcode: int, node: int, asked: bytes) -> bytes | int:
        """The answer's body, or the number of an error."""
        match opcode:
            case 26:  # INIT
                return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 32, 0, 0)
            case 1:  # LOOKUP
                if asked.rstrip(b"\0") != b"program":
                    return errno.ENOENT
                return struct.pack("=QQQQII", _PROGRAM, 0, 3600, 3600, 0, 0) + self._attr(_PROGRAM)
            case 3:  # GETATTR
                return struct.pack("=QII", 3600, 0, 0) + self._attr(node)
            case 14 | 27:  # OPEN, OPENDIR
                (flags,) = struct.unpack_from("=I", asked)
                return struct.pack("=QII", 1, _DIRECT_IO if flags & os.O_NOATIME else 0, 0)
            case 15:  # READ
                _, offset, size = _READ_IN.unpack_from(asked)
                return self._content[offset : offset + size]
            case 17:  # STATFS
                return struct.pack("=QQQQQIIII24x", 1, 0, 0, 2, 0, 4096, 255, 4096, 0)
            case 18 | 25 | 29:  # RELEASE, FLUSH, RELEASEDIR
                return b""
            case _:
                return errno.ENOSYS

    def _attr(self, node: int) -> bytes:
        size = len(self._content) if node == _PROGRAM else 0
        mode = (stat.S_IFREG if node == _PROGRAM else stat.S_IFDIR) | 0o755
        times = (0,) * 6  # seconds and nanoseconds of access, change of content and of inode
        return _ATTRIBUTES.pack(
            node, size, size // 512, *times[:3], *times[3:], mode, 1, 0, 0, 0, 4096, 0
        )


if __name__ == "__main__":
    main()
