"""Faults on huge pages, and copy on write: mm/hugetlb.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.include.linux.hugetlb import (
    HPAGE_RESV_OWNER,
    HPAGE_RESV_UNMAPPED,
    HugetlbFolio,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_FAULT_HWPOISON,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MAYSHARE,
    VM_SHARED,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_locked, PG_uptodate, VmFault
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    is_migration_entry,
    pte_marker_get,
    pte_none_mostly,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    MFILL_ATOMIC_CONTINUE,
    MFILL_ATOMIC_WP,
    uffd_flags_mode_is,
    userfaultfd_minor,
    userfaultfd_missing,
    userfaultfd_wp,
    userfaultfd_wp_async,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EEXIST,
    EFAULT,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.hugetlb.zap import HugetlbZap
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.fs.hugetlbfs.inode import HugetlbfsInode
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.hugetlb import Hstate
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea


class HugetlbFault(HugetlbZap):
    """Maps huge pages, and copies private ones on write."""

    __slots__ = ()

    # -- copy on write ---------------------------------------------------------------

    def make_huge_pte(
        self, vma: VmArea, folio: HugetlbFolio, *, try_mkwrite: bool
    ) -> int:
        """Return the entry of a huge page, writable if that is wanted and allowed.

        Source: mm/hugetlb.c, make_huge_pte()
        """
        entry = self._pgtable.pfn_pte(folio.pfn, vma.page_prot)
        if try_mkwrite and vma.flags & VM_WRITE:
            entry = self._pgtable.pte_mkwrite(pte_mkdirty(entry))
        else:
            entry = pte_wrprotect(entry)
        return self._kernel.hugetlbpage.arch_make_huge_pte(
            pte_mkyoung(entry), folio.hstate.size
        )

    def set_huge_ptep_writable(self, vma: VmArea, address: int, ptep: int) -> None:
        """Make an entry writable and dirty where it stands.

        Source: mm/hugetlb.c, set_huge_ptep_writable()
        """
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        entry = pte_mkdirty(huge.huge_ptep_get(ptep, size))
        entry = self._pgtable.pte_mkwrite(entry)
        huge.huge_ptep_set_access_flags(vma, address, ptep, entry, size, dirty=True)

    def set_huge_ptep_maybe_writable(
        self, vma: VmArea, address: int, ptep: int
    ) -> None:
        """Do so if the VMA is writable.

        Source: mm/hugetlb.c, set_huge_ptep_maybe_writable()
        """
        if vma.flags & VM_WRITE:
            self.set_huge_ptep_writable(vma, address, ptep)

    def hugetlb_wp(self, vmf: VmFault) -> int:
        """Handle a write to a page that is mapped read-only; the PTL is held.

        A private page that nobody else maps is made writable; any other is copied. Not
        references are counted but mappings: who runs out of huge pages kills, and a
        short reference shall not lead to that. If there is no page for the copy, and
        the VMA was promised all of its pages, it is taken from the children that still
        have it.

        Returns:
            ``VM_FAULT_`` bits; the PTL is held again.

        Source: mm/hugetlb.c, hugetlb_wp()
        Deviates: A copy of memory never fails here, and an anon_vma can always be made.
        """
        vma = vmf.vma
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        rmap = self._kernel.rmap
        swap = self._kernel.swap
        unshare = bool(vmf.flags & FAULT_FLAG_UNSHARE)
        assert vmf.pte is not None
        assert vmf.ptl is not None
        pte = huge.huge_ptep_get(vmf.pte, h.size)
        if not unshare and pte_uffd_wp(pte):
            return 0
        if vma.flags & VM_MAYSHARE:
            self.set_huge_ptep_writable(vma, vmf.address, vmf.pte)
            return 0
        old_folio = self.folio(pte)
        while True:
            if old_folio.mapcount == 1 and old_folio.anon:
                if not old_folio.page_exclusive(old_folio.pfn):
                    rmap.folio_move_anon_rmap(old_folio, vma)
                    rmap.set_page_anon_exclusive(old_folio, old_folio.pfn)
                if not unshare:
                    self.set_huge_ptep_maybe_writable(vma, vmf.address, vmf.pte)
                return 0
            cow_from_owner = (
                self.is_vma_resv_set(vma, HPAGE_RESV_OWNER) and old_folio.anon
            )
            old_folio.refcount += 1
            vmf.ptl.release()
            new_folio = self.alloc_hugetlb_folio(
                vma, vmf.address, cow_from_owner=cow_from_owner
            )
            if new_folio is not None:
                break
            swap.folio_put(old_folio)
            if not cow_from_owner:
                vmf.ptl.acquire()
                return VM_FAULT_SIGBUS
            # To take it from others, their VMA locks are taken for writing.
            mutex = self.fault_mutex(self.inode(vma), vmf.pgoff)
            self.hugetlb_vma_unlock_read(vma)
            mutex.release()
            self.unmap_ref_private(vma, old_folio, vmf.address)
            mutex.acquire()
            self.hugetlb_vma_lock_read(vma)
            vmf.ptl.acquire()
            vmf.pte = self.hugetlb_walk(vma, vmf.address, h.size)
            if vmf.pte is None or not self._machine.holds(
                "pte_same", huge.huge_ptep_get(vmf.pte, h.size) == pte
            ):
                return 0
        rmap.anon_vma_prepare(vma)
        self.copy_user_large_folio(new_folio, old_folio)
        new_folio.flags |= PG_uptodate
        with (
            self._kernel.mmu_notifier.mmu_notifier_range_init(
                MMU_NOTIFY_CLEAR, 0, vma.mm, vmf.address, vmf.address + h.size
            ),
            vmf.ptl,
        ):
            vmf.pte = self.hugetlb_walk(vma, vmf.address, h.size)
            if vmf.pte is not None and self._machine.holds(
                "pte_same", huge.huge_ptep_get(vmf.pte, h.size) == pte
            ):
                newpte = self.make_huge_pte(vma, new_folio, try_mkwrite=not unshare)
                huge.huge_ptep_clear_flush(vma, vmf.address, vmf.pte, h.size)
                rmap.hugetlb_remove_rmap(old_folio, vma)
                rmap.hugetlb_add_new_anon_rmap(new_folio, vma, vmf.address)
                if pte_uffd_wp(pte):
                    newpte = pte_mkuffd_wp(newpte)
                huge.set_huge_pte_at(vma.mm, vmf.address, vmf.pte, newpte, h.size)
                new_folio = old_folio  # the entry's reference is dropped below
        if new_folio is not old_folio:
            self.restore_reserve_on_error(h, vma, vmf.address, new_folio)
        swap.folio_put(new_folio)
        swap.folio_put(old_folio)
        vmf.ptl.acquire()
        return 0

    def copy_user_large_folio(self, new: HugetlbFolio, old: HugetlbFolio) -> None:
        """Copy the contents of a huge page.

        Source: mm/memory.c, copy_user_large_folio()
        """
        for n in range(new.nr_pages):
            self._machine.memory.copy_frame(old.pfn + n, new.pfn + n)

    # -- the pages of the file -------------------------------------------------------

    def hugetlbfs_pagecache_present(self, vma: VmArea, address: int) -> bool:
        """Tell whether the file has a page for *address*.

        Source: mm/hugetlb.c, hugetlbfs_pagecache_present()
        """
        h = self.hstate_vma(vma)
        return self.vma_hugecache_offset(h, vma, address) in self.mapping(vma).pages

    def filemap_lock_hugetlb_folio(
        self, mapping: AddressSpace, index: int
    ) -> HugetlbFolio | None:
        """Return the huge page of a file, locked and with a reference, or ``None``.

        Source: include/linux/hugetlb.h, filemap_lock_hugetlb_folio()
        """
        folio = mapping.pages.get(index)
        if folio is None:
            return None
        assert isinstance(folio, HugetlbFolio)
        folio.refcount += 1
        folio_lock(self._machine, folio)
        return folio

    @staticmethod
    def hugetlb_add_to_page_cache(
        folio: HugetlbFolio, mapping: AddressSpace, index: int
    ) -> None:
        """Give a locked huge page to a file, which holds it once for each page.

        Its place is in huge pages.

        Source: mm/hugetlb.c, hugetlb_add_to_page_cache()
        Deviates: Never fails: who has the fault mutex finds the place empty. The caller
        has locked the folio.
        """
        folio.mapping = mapping
        folio.index = index << folio.order
        folio.refcount += folio.nr_pages
        folio.restore_reserve = False
        mapping.pages[index] = folio
        mapping.ops.dirty_folio(mapping, folio)

    # -- faults ----------------------------------------------------------------------

    def hugetlb_handle_userfault(
        self, vmf: VmFault, mutex: SpinLock, reason: int
    ) -> int:
        """Let go of all locks of a fault, and ask who watches the VMA.

        Source: mm/hugetlb.c, hugetlb_handle_userfault()
        """
        self.hugetlb_vma_unlock_read(vmf.vma)
        mutex.release()
        return self._kernel.fs_userfaultfd.handle_userfault(vmf, reason)

    def hugetlb_pte_stable(self, h: Hstate, vma: VmArea, ptep: int, old: int) -> bool:
        """Tell, under the PTL, whether an entry still says *old*.

        Source: mm/hugetlb.c, hugetlb_pte_stable()
        """
        with self.huge_pte_lockptr(vma, ptep):
            return self._kernel.hugetlbpage.huge_ptep_get(ptep, h.size) == old

    def hugetlb_no_page(
        self, mapping: AddressSpace, vmf: VmFault, mutex: SpinLock
    ) -> int:
        """Map a page of the file, or a new one; the locks are released.

        Source: mm/hugetlb.c, hugetlb_no_page()
        Deviates: Nothing is set aside for the reserve map before the PTL is taken, as
        it never needs memory; no page of a pool is poisoned.
        """
        vma = vmf.vma
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        swap = self._kernel.swap
        assert vmf.pte is not None
        if self.is_vma_resv_set(vma, HPAGE_RESV_UNMAPPED):
            # What was here went to the owner of the promise; zeros would be a lie.
            return self._out(vmf, mutex, VM_FAULT_SIGBUS)
        new_anon_folio = False
        folio = self.filemap_lock_hugetlb_folio(mapping, vmf.pgoff)
        if folio is None:
            if vmf.pgoff >= mapping.host.size >> h.shift:
                return self._out(vmf, mutex, VM_FAULT_SIGBUS)
            if userfaultfd_missing(vma):
                stable = self.hugetlb_pte_stable(h, vma, vmf.pte, vmf.orig_pte)
                if not self._machine.holds("hugetlb_pte_stable", stable):
                    return self._out(vmf, mutex, 0)
                return self.hugetlb_handle_userfault(vmf, mutex, VM_UFFD_MISSING)
            if not vma.flags & VM_MAYSHARE:
                self._kernel.rmap.anon_vma_prepare(vma)
            folio = self.alloc_hugetlb_folio(vma, vmf.address, cow_from_owner=False)
            if folio is None:
                stable = self.hugetlb_pte_stable(h, vma, vmf.pte, vmf.orig_pte)
                stable = self._machine.holds("hugetlb_pte_stable", stable)
                return self._out(vmf, mutex, VM_FAULT_SIGBUS if stable else 0)
            self._machine.memory.clear_frames(folio.pfn, folio.nr_pages)
            folio.flags |= PG_uptodate
            folio_lock(self._machine, folio)
            if vma.flags & VM_MAYSHARE:
                self.hugetlb_add_to_page_cache(folio, mapping, vmf.pgoff)
            else:
                new_anon_folio = True
        elif userfaultfd_minor(vma):
            folio_unlock(self._machine, folio)
            swap.folio_put(folio)
            stable = self.hugetlb_pte_stable(h, vma, vmf.pte, vmf.orig_pte)
            if not self._machine.holds("hugetlb_pte_stable", stable):
                return self._out(vmf, mutex, 0)
            return self.hugetlb_handle_userfault(vmf, mutex, VM_UFFD_MINOR)
        vmf.ptl = self.huge_pte_lockptr(vma, vmf.pte)
        vmf.ptl.acquire()
        same = huge.huge_ptep_get(vmf.pte, h.size) == vmf.orig_pte
        if not self._machine.holds("pte_same", same):
            vmf.ptl.release()
            if new_anon_folio:
                self.restore_reserve_on_error(h, vma, vmf.address, folio)
            folio_unlock(self._machine, folio)
            swap.folio_put(folio)
            return self._out(vmf, mutex, 0)
        if new_anon_folio:
            self._kernel.rmap.hugetlb_add_new_anon_rmap(folio, vma, vmf.address)
        else:
            self._kernel.rmap.hugetlb_add_file_rmap(folio, vma)
        new_pte = self.make_huge_pte(
            vma, folio, try_mkwrite=bool(vma.flags & VM_SHARED)
        )
        if pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            new_pte = pte_mkuffd_wp(new_pte)
        huge.set_huge_pte_at(vma.mm, vmf.address, vmf.pte, new_pte, h.size)
        vma.mm.hugetlb_usage += folio.nr_pages
        result = 0
        folio_locked = True
        if vmf.flags & FAULT_FLAG_WRITE and not vma.flags & VM_SHARED:
            if not new_anon_folio:
                folio_locked = False
                folio_unlock(self._machine, folio)
            result = self.hugetlb_wp(vmf)  # without a second fault
        vmf.ptl.release()
        if folio_locked:
            folio_unlock(self._machine, folio)
        return self._out(vmf, mutex, result)

    def fault_mutex(self, inode: HugetlbfsInode, index: int) -> SpinLock:
        """Return the mutex of one huge page of a file; others may have the same.

        Source: mm/hugetlb.c, hugetlb_fault_mutex_hash()
        Deviates: Returns the mutex and not its number; the hash is another one.
        """
        number = (inode.number * 31 + index) % self.num_fault_mutexes
        mutex = self.fault_mutex_table.get(number)
        if mutex is None:
            mutex = SpinLock(self._machine, f"hugetlb_fault_mutex {number:#x}")
            self.fault_mutex_table[number] = mutex
        return mutex

    def _out(self, vmf: VmFault, mutex: SpinLock, result: int) -> int:
        """Release the VMA lock and the mutex of a fault; return *result*."""
        self.hugetlb_vma_unlock_read(vmf.vma)
        mutex.release()
        return result

    def hugetlb_fault(self, vma: VmArea, address: int, flags: int) -> int:
        """Make an access to a huge page possible, or say why not: ``VM_FAULT_`` bits.

        Where a table is missing this is where it becomes a shared one. An entry that
        allows the access is made young and dirty; if it was that already, nothing is
        flushed: unlike for other pages there is no fix of a spurious fault here.

        Source: mm/hugetlb.c, hugetlb_fault()
        Deviates: What is poisoned is ``VM_FAULT_HWPOISON``: the signal does not tell
        the size. Nothing is set aside for the reserve map before the PTL is taken,
        as it never needs memory.
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        haddr = address & -h.size
        vmf = VmFault(vma, haddr, address, flags)
        vmf.pgoff = self.vma_hugecache_offset(h, vma, haddr)
        mapping = self.mapping(vma)
        mutex = self.fault_mutex(self.inode(vma), vmf.pgoff)
        mutex.acquire()
        self.hugetlb_vma_lock_read(vma)
        vmf.pte = huge.huge_pte_alloc(vma.mm, vma, haddr, h.size)
        if vmf.pte is None:
            return self._out(vmf, mutex, VM_FAULT_OOM)
        vmf.orig_pte = huge.huge_ptep_get(vmf.pte, h.size)
        if pte_none(vmf.orig_pte):
            return self.hugetlb_no_page(mapping, vmf, mutex)
        if pte_marker_get(vmf.orig_pte):
            if pte_marker_get(vmf.orig_pte) & PTE_MARKER_POISONED:
                return self._out(vmf, mutex, VM_FAULT_HWPOISON)
            return self.hugetlb_no_page(mapping, vmf, mutex)
        if not pte_present(vmf.orig_pte):
            entry = pte_to_swp_entry(vmf.orig_pte)
            if not is_migration_entry(entry):
                return self._out(vmf, mutex, VM_FAULT_HWPOISON)
            mutex.release()
            self.migration_entry_wait_huge(vma, vmf.pte)
            return 0
        vmf.ptl = self.huge_pte_lockptr(vma, vmf.pte)
        vmf.ptl.acquire()
        locked: HugetlbFolio | None = None
        result = 0
        pte = huge.huge_ptep_get(vmf.pte, h.size)
        if self._machine.holds("pte_same", pte == vmf.orig_pte):
            if (
                userfaultfd_wp(vma)
                and pte_uffd_wp(pte)
                and flags & FAULT_FLAG_WRITE
                and not pte_write(vmf.orig_pte)
            ):
                if not userfaultfd_wp_async(vma):
                    vmf.ptl.release()
                    self._out(vmf, mutex, 0)
                    return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
                vmf.orig_pte = pte_clear_uffd_wp(vmf.orig_pte)
                huge.set_huge_pte_at(vma.mm, haddr, vmf.pte, vmf.orig_pte, h.size)
            if flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE) and not pte_write(
                vmf.orig_pte
            ):
                folio = self.folio(vmf.orig_pte)
                anon = folio.anon
                if anon and not folio_trylock(folio):
                    locked = folio
                else:
                    folio.refcount += 1
                    result = self.hugetlb_wp(vmf)
                    if anon:
                        folio_unlock(self._machine, folio)
                    self._kernel.swap.folio_put(folio)
            else:
                if flags & FAULT_FLAG_WRITE:
                    vmf.orig_pte = pte_mkdirty(vmf.orig_pte)
                vmf.orig_pte = pte_mkyoung(vmf.orig_pte)
                huge.huge_ptep_set_access_flags(
                    vma,
                    haddr,
                    vmf.pte,
                    vmf.orig_pte,
                    h.size,
                    dirty=bool(flags & FAULT_FLAG_WRITE),
                )
        vmf.ptl.release()
        self._out(vmf, mutex, result)
        if locked is not None:
            # It is not held meanwhile, and not used after: only its lock is awaited.
            self._machine.wait(
                lambda: not locked.flags & PG_locked,
                f"the lock of folio {locked.pfn:#x}",
            )
        return result

    def migration_entry_wait_huge(self, vma: VmArea, ptep: int) -> None:
        """Wait until a huge page has migrated; the VMA lock is released.

        Source: mm/migrate.c, migration_entry_wait_huge()
        """
        with self.huge_pte_lockptr(vma, ptep):
            size = self.hstate_vma(vma).size
            pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        self.hugetlb_vma_unlock_read(vma)
        moving = not pte_none(pte) and not pte_present(pte)
        if moving and is_migration_entry(pte_to_swp_entry(pte)):
            self._kernel.migrate.migration_entry_wait(pte_to_swp_entry(pte))

    # -- fills of a userfaultfd ------------------------------------------------------

    def hugetlb_mfill_atomic_pte(
        self,
        dst_pte: int,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        flags: int,
        folio: Folio | None,
    ) -> tuple[int, Folio | None]:
        """Fill one missing huge page for user space; its fault mutex is held.

        Args:
            dst_pte: Where the entry stands.
            dst_vma: Locked for reading.
            dst_addr: Of the huge page.
            src_addr: Where its contents are, in user space.
            flags: The ``MFILL_ATOMIC_`` bits.
            folio: A huge page whose contents were copied meanwhile, for the time being.

        Returns:
            0 or a negative error number: ``-ENOENT`` and a huge page for the contents
            if the source cannot be read without a fault.

        Source: mm/hugetlb.c, hugetlb_mfill_atomic_pte()
        Deviates: POISON is left out, and no huge page is poisoned.
        """
        is_continue = uffd_flags_mode_is(flags, MFILL_ATOMIC_CONTINUE)
        wp_enabled = bool(flags & MFILL_ATOMIC_WP)
        vm_shared = bool(dst_vma.flags & VM_SHARED)
        h = self.hstate_vma(dst_vma)
        mapping = self.mapping(dst_vma)
        idx = self.vma_hugecache_offset(h, dst_vma, dst_addr)
        swap = self._kernel.swap
        new: HugetlbFolio | None
        in_pagecache = is_continue
        if is_continue:
            new = self.filemap_lock_hugetlb_folio(mapping, idx)
            if new is None:
                return -EFAULT, folio
        else:
            if vm_shared and self.hugetlbfs_pagecache_present(dst_vma, dst_addr):
                if folio is not None:
                    swap.folio_put(folio)
                return -EEXIST, None
            new = self.alloc_hugetlb_folio(dst_vma, dst_addr, cow_from_owner=False)
            if new is None:
                if folio is not None:
                    swap.folio_put(folio)
                return -ENOMEM, None
            if folio is not None:
                assert isinstance(folio, HugetlbFolio)
                self.copy_user_large_folio(new, folio)
                swap.folio_put(folio)
            elif self._kernel.userfaultfd.copy_folio_from_user(
                new, src_addr, allow_pagefault=False
            ):
                self.restore_reserve_on_error(h, dst_vma, dst_addr, new)
                swap.folio_put(new)
                # One that uses up no promise holds the contents meanwhile.
                new = self.alloc_migrate_hugetlb_folio(h)
                return (-ENOMEM if new is None else -ENOENT), new
            new.flags |= PG_uptodate
            if vm_shared:
                if idx >= mapping.host.size >> h.shift:
                    self.restore_reserve_on_error(h, dst_vma, dst_addr, new)
                    swap.folio_put(new)
                    return -EFAULT, None
                folio_lock(self._machine, new)
                self.hugetlb_add_to_page_cache(new, mapping, idx)
                in_pagecache = True
        hugetlbpage = self._kernel.hugetlbpage
        with self.huge_pte_lockptr(dst_vma, dst_pte):
            empty = pte_none_mostly(hugetlbpage.huge_ptep_get(dst_pte, h.size))
            mapped = self._machine.holds("pte_none_mostly", empty)
            if mapped:
                if in_pagecache:
                    self._kernel.rmap.hugetlb_add_file_rmap(new, dst_vma)
                else:
                    self._kernel.rmap.hugetlb_add_new_anon_rmap(new, dst_vma, dst_addr)
                writable = not wp_enabled and (vm_shared or not is_continue)
                pte = self.make_huge_pte(dst_vma, new, try_mkwrite=writable)
                pte = pte_mkyoung(pte_mkdirty(pte))
                if wp_enabled:
                    pte = pte_mkuffd_wp(pte)
                hugetlbpage.set_huge_pte_at(dst_vma.mm, dst_addr, dst_pte, pte, h.size)
                dst_vma.mm.hugetlb_usage += new.nr_pages
        if vm_shared or is_continue:
            folio_unlock(self._machine, new)
        if mapped:
            return 0, None
        if not in_pagecache:
            self.restore_reserve_on_error(h, dst_vma, dst_addr, new)
        swap.folio_put(new)
        return -EEXIST, None
