"""The scenarios: what is done, for how many pages, and which line makes which row.

Each is one program of `kernel_text` for each size; the same lines are played by the
guest on a real kernel and by `kernel_model`. A line that is measured stands beside the
name of its row. Pages are small and private unless it is said otherwise; every mapping
has a GiB to itself, so that `munmap` frees its lower tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kernel_text import FIRST, GIB, GUARD, HUGE, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Lines = Iterator[str | tuple[str, str]]

SMALL = (1, 4, 16, 64, 511, 512, 513, 2048)
MOVED = (1, 2, 4, 16, 64, 256, 511, 512, 1024, 2048)
HUGES = (1, 2, 4, 8)
GIBS = (1, 2, 4, 8, 16)
SHARED_AFTER = 8
"""The mapping of which a file of huge pages takes the GiB from."""


def slot(number: int) -> int:
    """Return where mapping *number* of a program begins."""
    return FIRST + number * GIB


def reserve(number: int, length: int) -> str:
    """Map something without rights, for something else to come there."""
    return f"0 mmap {slot(number):#x} {length:#x} none private,fixed,anon"


def small(number: int, pages: int) -> Iterator[str]:
    """Map pages that stay small."""
    at, length = slot(number), pages * PAGE
    yield f"0 mmap {at:#x} {length:#x} rw private,fixed,anon"
    yield f"0 madvise {at:#x} {length:#x} nohugepage"


def huge(number: int, pages: int) -> Iterator[str]:
    """Map memory that gets transparent huge pages."""
    at, length = slot(number), pages * HUGE
    yield f"0 mmap {at:#x} {length:#x} rw private,fixed,anon"
    yield f"0 madvise {at:#x} {length:#x} hugepage"


def write(number: int, pages: int, step: int = PAGE, who: str = "0") -> str:
    """Write to each page of a mapping."""
    return f"{who} write {slot(number):#x} 1 {pages} {step:#x}"


def read(number: int, pages: int, step: int = PAGE, who: str = "0") -> str:
    """Read each page of a mapping."""
    return f"{who} read {slot(number):#x} {pages} {step:#x}"


def protect(number: int, length: int, prot: str, offset: int = 0) -> str:
    """Give a part of a mapping other rights."""
    return f"0 mprotect {slot(number) + offset:#x} {length:#x} {prot}"


def advise(number: int, length: int, advice: str) -> str:
    """Give advice for a mapping."""
    return f"0 madvise {slot(number):#x} {length:#x} {advice}"


def unmap(number: int, length: int, who: str = "0") -> str:
    """Unmap a mapping."""
    return f"{who} munmap {slot(number):#x} {length:#x}"


def move(number: int, length: int, to: int) -> str:
    """Move a mapping with mremap."""
    return f"0 mremap {slot(number):#x} {length:#x} {length:#x} maymove,fixed {to:#x}"


def born_and_gone() -> Iterator[str]:
    """Fork a child that ends at once: all pages are read-only, and nobody shares."""
    yield "0 fork 1"
    yield "1 exit"


def protections(n: int) -> Lines:
    """Change rights to and fro."""
    length = n * PAGE
    yield from small(0, n)
    yield write(0, n)
    yield "mprotect_rw_to_ro", protect(0, length, "r")
    yield "mprotect_ro_to_rw", protect(0, length, "rw")
    yield write(0, n)
    yield "mprotect_rw_to_none", protect(0, length, "none")
    yield "mprotect_none_to_rw", protect(0, length, "rw")
    yield "write_after_none_to_rw", write(0, n)
    yield "mprotect_rw_to_rw", protect(0, length, "rw")
    yield protect(0, length, "none")
    yield "mprotect_none_to_ro", protect(0, length, "r")
    yield "mprotect_ro_to_none", protect(0, length, "none")
    yield protect(0, length, "rw")
    yield "mprotect_rw_to_rwx", protect(0, length, "rwx")
    yield "munmap_after_mprotect", unmap(0, length)
    yield reserve(1, length)
    yield "mprotect_none_to_rw_unpopulated", protect(1, length, "rw")


def copies(n: int) -> Lines:
    """Fork, and write to what parent and child share, or no more share."""
    yield from small(0, n)
    yield "anon_first_write", write(0, n)
    yield from born_and_gone()
    yield "wp_reuse_after_child_exit", write(0, n)
    yield "write_again", write(0, n)
    yield "0 fork 2"
    yield "cow_copy_child_alive", write(0, n)
    yield "2 exit"
    yield "0 fork 3"
    yield "cow_copy_in_child", write(0, n, who="3")
    yield "3 exit"
    yield write(0, n)
    yield unmap(0, n * PAGE)
    yield from small(1, n)
    yield "zero_page_read", read(1, n)
    yield "zero_page_then_write", write(1, n)


def stale(n: int) -> Lines:
    """Write on a CPU whose TLB has entries from before another CPU's write faults."""
    yield "0 thread 1"
    yield from small(0, n)
    yield write(0, n)
    yield from born_and_gone()
    yield read(0, n, who="0.1")
    yield "mt_wp_reuse_cpu0", write(0, n)
    yield "mt_stale_write_cpu1", write(0, n, who="0.1")


def stale_huge(n: int) -> Lines:
    """Do the same with huge pages."""
    yield "0 thread 1"
    yield from huge(0, n)
    yield write(0, n, HUGE)
    yield from born_and_gone()
    yield read(0, n, HUGE, who="0.1")
    yield "mt_thp_wp_reuse_cpu0", write(0, n, HUGE)
    yield "mt_thp_stale_write_cpu1", write(0, n, HUGE, who="0.1")


def threads(n: int) -> Lines:
    """Change tables while threads of the process run on all CPUs."""
    for cpu in (1, 2, 3):
        yield f"0 thread {cpu}"
    yield from small(0, n)
    yield write(0, n)
    yield "threads4_madv_dontneed", advise(0, n * PAGE, "dontneed")
    yield write(0, n)
    yield "threads4_mprotect_rw_to_none", protect(0, n * PAGE, "none")
    yield "threads4_mprotect_none_to_rw", protect(0, n * PAGE, "rw")


def removals(n: int) -> Lines:
    """Unmap, give back and age."""
    length = n * PAGE
    yield from small(0, n)
    yield write(0, n)
    yield "munmap", unmap(0, length)
    yield from small(1, n)
    yield "munmap_unpopulated", unmap(1, length)
    yield from small(2, n)
    yield write(2, n)
    yield "madv_dontneed", advise(2, length, "dontneed")
    yield write(2, n)
    yield "madv_free", advise(2, length, "free")
    yield write(2, n)
    yield "madv_cold", advise(2, length, "cold")
    yield from small(3, n)
    yield write(3, -(-n // 8), 8 * PAGE)
    yield "madv_dontneed_sparse8", advise(3, length, "dontneed")


def moves(n: int) -> Lines:
    """Move a mapping, to another offset within its table and to the same."""
    length = n * PAGE
    yield from small(0, n)
    yield write(0, n)
    yield reserve(1, length + 16 * PAGE)
    yield "mremap_move", move(0, length, slot(1) + 8 * PAGE)
    if not length % HUGE:
        yield from small(2, n)
        yield write(2, n)
        yield reserve(3, length)
        yield "mremap_move_aligned", move(2, length, slot(3))


def uffd_moves(n: int) -> Lines:
    """Move pages with UFFDIO_MOVE: all there, every second missing, shifted by five."""
    length, more = n * PAGE, (n + 16) * PAGE

    def ready(source: int, target: int, shift: int = 0, step: int = 1) -> Lines:
        yield from small(source, n + 16)
        yield from small(target, n + 16)
        yield write(source, -(-n // step), step * PAGE)
        yield f"0 register 0 {slot(target) + shift:#x} {length:#x} missing"

    yield "0 uffd 0 move"
    yield from ready(0, 1)
    yield "uffd_move", f"0 move 0 {slot(1):#x} {slot(0):#x} {length:#x}"
    yield unmap(0, more)
    yield from ready(2, 3, step=2)
    yield "uffd_move_holes2", f"0 move 0 {slot(3):#x} {slot(2):#x} {length:#x} holes"
    yield unmap(2, more)
    yield from ready(4, 5, 5 * PAGE)
    to = slot(5) + 5 * PAGE
    yield "uffd_move_dst_off5", f"0 move 0 {to:#x} {slot(4):#x} {length:#x}"


def uffd_moves_huge(n: int) -> Lines:
    """Move huge pages with UFFDIO_MOVE."""
    length = n * HUGE
    yield "0 uffd 0 move"
    yield from huge(0, n)
    yield from huge(1, n)
    yield write(0, n, HUGE)
    yield f"0 register 0 {slot(1):#x} {length:#x} missing"
    yield "uffd_move_thp", f"0 move 0 {slot(1):#x} {slot(0):#x} {length:#x}"


def uffd_protect(n: int) -> Lines:
    """Protect pages through a userfaultfd, alone and with a child that shares them."""
    length = n * PAGE
    yield "0 uffd 0 pagefault_flag_wp"
    yield from small(0, n)
    yield write(0, n)
    yield f"0 register 0 {slot(0):#x} {length:#x} wp"
    yield "uffd_wp_set", f"0 wp 0 {slot(0):#x} {length:#x} on"
    yield "uffd_wp_unset", f"0 wp 0 {slot(0):#x} {length:#x} off"
    yield "uffd_wp_write_after_unset", write(0, n)
    yield "0 close 0"
    yield "0 uffd 1 pagefault_flag_wp"
    yield from small(1, n)
    yield write(1, n)
    yield "0 fork 1"
    yield f"0 register 1 {slot(1):#x} {length:#x} wp"
    yield "uffd_wp_set_shared", f"0 wp 1 {slot(1):#x} {length:#x} on"
    yield "uffd_wp_unset_shared", f"0 wp 1 {slot(1):#x} {length:#x} off"
    yield "0 close 1"
    yield "1 exit"


def huge_pages(n: int) -> Lines:
    """Do with transparent huge pages what is done with small ones."""
    length = n * HUGE
    yield from huge(0, n)
    yield "thp_first_write", write(0, n, HUGE)
    yield from born_and_gone()
    yield "thp_wp_reuse_after_child_exit", write(0, n, HUGE)
    yield "thp_mprotect_rw_to_none", protect(0, length, "none")
    yield "thp_mprotect_none_to_rw", protect(0, length, "rw")
    yield write(0, n, HUGE)
    yield "thp_mprotect_rw_to_ro", protect(0, length, "r")
    yield "thp_mprotect_ro_to_rw", protect(0, length, "rw")
    yield write(0, n, HUGE)
    yield "0 fork 2"
    yield "thp_cow_child_alive", write(0, n, HUGE)
    yield "2 exit"
    yield unmap(0, length)
    yield from huge(1, n)
    yield write(1, n, HUGE)
    yield "thp_partial_dontneed", advise(1, PAGE, "dontneed")
    yield "thp_munmap_after_split", unmap(1, length)
    yield from huge(2, n)
    yield write(2, n, HUGE)
    yield "thp_munmap", unmap(2, length)
    yield from huge(3, n)
    yield "thp_huge_zero_read", read(3, n, HUGE)
    yield "thp_huge_zero_then_write", write(3, n, HUGE)
    yield unmap(3, length)
    yield from huge(4, n)
    yield write(4, n, HUGE)
    yield reserve(5, length)
    yield "thp_mremap", move(4, length, slot(5))


def huge_first_page(n: int) -> Lines:
    """Protect one small page of a huge one."""
    yield from huge(0, n)
    yield write(0, n, HUGE)
    yield "thp_mprotect_first_page_ro", protect(0, PAGE, "r")


def shared_tables(operation: str, children: int) -> Callable[[int], Lines]:
    """Return a scenario in which a child does *operation* to shared page tables.

    Each GiB of a file of huge pages has one page, and so one PMD table, which all that
    map it share: the parent, *children* idle ones, and the one that acts.
    """

    def program(n: int) -> Lines:
        at, length, actor = slot(SHARED_AFTER), n * GIB, children + 1
        yield "0 memfd 0 huge"
        yield f"0 ftruncate 0 {length:#x}"
        yield f"0 mmap {at:#x} {length:#x} rw shared,fixed,noreserve 0"
        yield write(SHARED_AFTER, n, GIB)
        for child in range(1, children + 1):
            yield f"0 fork {child}"
            yield write(SHARED_AFTER, n, GIB, who=str(child))
        yield f"0 fork {actor}"
        if operation != "first_touch":
            yield write(SHARED_AFTER, n, GIB, who=str(actor))
        yield (
            f"hugetlb_child_{operation}_sharers{children + 2}",
            {
                "munmap": f"{actor} munmap {at:#x} {length:#x}",
                "exit": f"{actor} exit",
                "mprotect_ro": f"{actor} mprotect {at:#x} {length:#x} r",
                "dontneed": f"{actor} madvise {at:#x} {length:#x} dontneed",
                "first_touch": write(SHARED_AFTER, n, GIB, who=str(actor)),
            }[operation],
        )

    return program


def unshared_table(n: int) -> Lines:
    """Unmap a file of huge pages that nobody else maps."""
    at, length = slot(SHARED_AFTER), n * GIB
    yield "0 memfd 0 huge"
    yield f"0 ftruncate 0 {length:#x}"
    yield f"0 mmap {at:#x} {length:#x} rw shared,fixed,noreserve 0"
    yield write(SHARED_AFTER, n, GIB)
    yield "hugetlb_munmap_unshared", unmap(SHARED_AFTER, length)


def private_pool_pages(n: int) -> Lines:
    """Do with private huge pages of the pool what is done with small ones."""
    at, length = slot(0), n * HUGE
    yield f"0 mmap {at:#x} {length:#x} rw private,fixed,anon,hugetlb"
    yield write(0, n, HUGE)
    yield from born_and_gone()
    yield "hugetlb_private_wp_reuse", write(0, n, HUGE)
    yield "0 fork 2"
    yield "hugetlb_private_cow", write(0, n, HUGE)
    yield "2 exit"
    yield "hugetlb_private_rw_to_none", protect(0, length, "none")
    yield "hugetlb_private_none_to_rw", protect(0, length, "rw")
    yield "hugetlb_private_munmap", unmap(0, length)


def shared_rights(n: int) -> Lines:
    """Change rights of pages that a child shares."""
    length = n * PAGE
    yield from small(0, n)
    yield write(0, n)
    yield "0 fork 1"
    yield "mprotect_rw_to_ro_shared", protect(0, length, "r")
    yield "mprotect_ro_to_rw_shared", protect(0, length, "rw")
    yield "mprotect_rw_to_none_shared", protect(0, length, "none")
    yield "mprotect_none_to_rw_shared", protect(0, length, "rw")
    yield "1 exit"
    yield "wp_reuse_after_mprotect", write(0, n)


def gaps(n: int) -> Lines:
    """Change rights where every second page is missing, and where they differ."""
    length, half = n * PAGE, n // 2 * PAGE
    yield from small(0, n)
    yield write(0, -(-n // 2), 2 * PAGE)
    yield protect(0, length, "none")
    yield "mprotect_none_to_rw_half", protect(0, length, "rw")
    yield "mprotect_rw_to_none_half", protect(0, length, "none")
    if half:
        yield from small(1, n)
        yield write(1, n)
        yield protect(1, half, "none")
        yield protect(1, length - half, "r", half)
        yield "mprotect_mixed_none_ro_to_rw", protect(1, length, "rw")


def ages(n: int) -> Lines:
    """Use pages again whose access flag or dirty state the kernel has taken."""
    length = n * PAGE
    yield from small(0, n)
    yield write(0, n)
    yield advise(0, length, "cold")
    yield "read_after_cold", read(0, n)
    yield advise(0, length, "cold")
    yield "write_after_cold", write(0, n)
    yield from small(1, n)
    yield write(1, n)
    yield protect(1, length, "r")
    yield advise(1, length, "free")
    yield protect(1, length, "rw")
    yield "write_clean_after_ro_to_rw", write(1, n)


def files(n: int) -> Lines:
    """Map shared memory, shared and privately."""
    at, length = slot(0), n * PAGE
    yield "0 memfd 0"
    yield f"0 ftruncate 0 {length:#x}"
    yield f"0 mmap {at:#x} {length:#x} rw shared,fixed 0"
    yield advise(0, length, "nohugepage")
    yield read(0, n)
    yield "shmem_write_after_read", write(0, n)
    yield "shmem_mprotect_rw_to_none", protect(0, length, "none")
    yield "shmem_mprotect_none_to_rw", protect(0, length, "rw")
    yield "shmem_munmap", unmap(0, length)
    yield "0 memfd 1"
    yield f"0 ftruncate 1 {length:#x}"
    yield f"0 mmap {slot(1):#x} {length:#x} rw private,fixed 1"
    yield advise(1, length, "nohugepage")
    yield f"0 pwrite 1 0 1 {n}"
    yield read(1, n)
    yield "private_file_cow", write(1, n)


def large_folios(n: int) -> Lines:
    """Do with folios of 64 KiB, in contiguous entries, what is done with pages."""
    length, at = n * PAGE, slot(0) + 64 * 1024
    yield "- mthp 64 always"
    yield "- thp always"
    yield reserve(0, length + HUGE)
    yield f"0 mprotect {at:#x} {length:#x} rw"
    yield f"0 write {at:#x} 1 {n}"
    yield from born_and_gone()
    yield "mthp64k_wp_reuse", f"0 write {at:#x} 1 {n}"
    yield "mthp64k_mprotect_rw_to_none", f"0 mprotect {at:#x} {length:#x} none"
    yield "mthp64k_mprotect_none_to_rw", f"0 mprotect {at:#x} {length:#x} rw"
    yield f"0 write {at:#x} 1 {n}"
    yield "mthp64k_mprotect_one_page_ro", f"0 mprotect {at:#x} {PAGE:#x} r"
    yield "mthp64k_munmap", f"0 munmap {at:#x} {length:#x}"


class Scenario(NamedTuple):
    """Programs that differ by one number.

    Attributes:
        name: Unique.
        program: The lines for one size.
        sizes: What it is played with: pages, huge pages, or GiB.
    """

    name: str
    program: Callable[[int], Lines]
    sizes: tuple[int, ...]

    def lines(self, size: int) -> tuple[list[str], dict[int, str]]:
        """Return the program for one size, and the rows by the number of their line."""
        lines, rows = [GUARD], {}
        for line in self.program(size):
            if not isinstance(line, str):
                row, line = line  # noqa: PLW2901 - what is left is the line
                rows[len(lines)] = row
            lines.append(line)
        return lines, rows


SCENARIOS = (
    Scenario("protections", protections, SMALL),
    Scenario("copies", copies, SMALL),
    Scenario("stale", stale, (1, 16, 64, 512)),
    Scenario("removals", removals, SMALL),
    Scenario("moves", moves, SMALL),
    Scenario("uffd_moves", uffd_moves, MOVED),
    Scenario("uffd_moves_huge", uffd_moves_huge, (1, 2, 4)),
    Scenario("uffd_protect", uffd_protect, SMALL),
    Scenario("huge_pages", huge_pages, HUGES),
    Scenario("huge_first_page", huge_first_page, (1,)),
    Scenario("stale_huge", stale_huge, HUGES),
    Scenario("unshared_table", unshared_table, GIBS),
    *(
        Scenario(
            f"shared_tables_{operation}_{children}",
            shared_tables(operation, children),
            GIBS,
        )
        for operation, most in (
            ("munmap", 2),
            ("exit", 2),
            ("mprotect_ro", 2),
            ("dontneed", 0),
            ("first_touch", 0),
        )
        for children in range(most + 1)
    ),
    Scenario("private_pool_pages", private_pool_pages, HUGES),
    Scenario("shared_rights", shared_rights, SMALL),
    Scenario("gaps", gaps, SMALL),
    Scenario("ages", ages, SMALL),
    Scenario("files", files, SMALL),
    Scenario("threads", threads, (64,)),
    Scenario("large_folios", large_folios, (16, 64, 512, 2048)),
)
"""All of them."""
