"""The numbers by which a process knows its files: fs/file.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.fs import File


class FilesStruct:
    """The table of descriptors that the threads of a process share: files_struct.

    Attributes:
        fds: Open files by number.
    """

    __slots__ = ("fds",)

    def __init__(self) -> None:
        self.fds: dict[int, File] = {}

    def fd_install(self, file: File) -> int:
        """Give *file*, with the reference to it, the lowest number that is free.

        Source: fs/file.c, fd_install()
        """
        number = 3  # a program starts with three
        while number in self.fds:
            number += 1
        self.fds[number] = file
        return number

    def fget(self, fd: int) -> File | None:
        """Return the open file of a number, or ``None``; no reference is taken.

        Source: fs/file.c, fget()
        """
        return self.fds.get(fd)

    def dup_fd(self) -> FilesStruct:
        """Return a copy, for a child; it holds every file once more.

        Source: fs/file.c, dup_fd()
        """
        copy = FilesStruct()
        for number, file in self.fds.items():
            file.count += 1
            copy.fds[number] = file
        return copy

    def close_files(self, fput: Callable[[File], None]) -> None:
        """Give every descriptor back, as the process ends.

        Source: fs/file.c, close_files()
        """
        files, self.fds = self.fds, {}
        for file in files.values():
            fput(file)
