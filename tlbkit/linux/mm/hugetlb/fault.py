"""Faults on huge pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_mkyoung,
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
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea


class HugetlbFault(HugetlbZap):
    """Maps huge pages, and copies private ones on write."""

    __slots__ = ()

    def hugetlb_fault(self, vma: VmArea, address: int, flags: int) -> int:
        """Make an access to a huge page possible, or say why not: ``VM_FAULT_`` bits.

        Where a table is missing this is where it becomes a shared one.
        """
        h = self.hstate_vma(vma)
        start = address & -h.size
        vmf = VmFault(vma, start, address, flags)
        vmf.pgoff = self.vma_hugecache_offset(h, vma, start)
        mutex = self.fault_mutex(self.inode(vma), vmf.pgoff)
        mutex.acquire()
        self.hugetlb_vma_lock_read(vma)
        vmf.pte = self._kernel.hugetlbpage.huge_pte_alloc(vma.mm, vma, start, h.size)
        if vmf.pte is None:
            return self._unlock(vmf, mutex, VM_FAULT_OOM)
        vmf.orig_pte = self._kernel.hugetlbpage.huge_ptep_get(vmf.pte, h.size)
        if pte_none_mostly(vmf.orig_pte):
            if pte_marker_get(vmf.orig_pte) & PTE_MARKER_POISONED:
                return self._unlock(vmf, mutex, VM_FAULT_HWPOISON)
            return self.hugetlb_no_page(vmf, mutex)
        if not pte_present(vmf.orig_pte):
            return self._not_present(vmf, mutex)
        vmf.ptl = self.huge_pte_lockptr(vma, vmf.pte)
        vmf.ptl.acquire()
        locked: Folio | None = None
        result = 0
        if self._machine.holds("pte_same", self._pte_same(vmf)):
            if self._write_protected(vmf):
                vmf.ptl.release()
                self._unlock(vmf, mutex, 0)
                return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
            result, locked = self._present(vmf)
        vmf.ptl.release()
        self._unlock(vmf, mutex, result)
        if locked is not None:
            self._machine.wait(
                lambda: not locked.flags & PG_locked,
                f"the lock of folio {locked.pfn:#x}",
            )
        return result

    def fault_mutex(self, inode: HugetlbfsInode, index: int) -> SpinLock:
        """Return the mutex of one huge page of a file; others may have the same."""
        number = (inode.number * 31 + index) % self.num_fault_mutexes
        mutex = self.fault_mutex_table.get(number)
        if mutex is None:
            mutex = SpinLock(self._machine, f"hugetlb_fault_mutex {number:#x}")
            self.fault_mutex_table[number] = mutex
        return mutex

    def _unlock(self, vmf: VmFault, mutex: SpinLock, result: int) -> int:
        """Release the locks of a fault; return *result*."""
        self.hugetlb_vma_unlock_read(vmf.vma)
        mutex.release()
        return result

    def _pte_same(self, vmf: VmFault) -> bool:
        """Tell whether the entry still says what it did; its table is locked."""
        assert vmf.pte is not None
        size = self.hstate_vma(vmf.vma).size
        return self._kernel.hugetlbpage.huge_ptep_get(vmf.pte, size) == vmf.orig_pte

    def hugetlb_pte_stable(self, vmf: VmFault) -> bool:
        """Tell the same without the lock."""
        assert vmf.pte is not None
        with self.huge_pte_lockptr(vmf.vma, vmf.pte):
            return self._pte_same(vmf)

    def _not_present(self, vmf: VmFault, mutex: SpinLock) -> int:
        """Handle a fault on a page that migrates, or must not be used."""
        entry = pte_to_swp_entry(vmf.orig_pte)
        if not is_migration_entry(entry):
            return self._unlock(vmf, mutex, VM_FAULT_HWPOISON)
        self._unlock(vmf, mutex, 0)
        self._kernel.migrate.migration_entry_wait(entry)
        return 0

    def _write_protected(self, vmf: VmFault) -> bool:
        """Tell whether a userfaultfd is to be asked; if it need not be, note the write.

        Then its mark is gone, and copy on write goes on.
        """
        vma = vmf.vma
        if (
            not vmf.flags & FAULT_FLAG_WRITE
            or not userfaultfd_wp(vma)
            or not pte_uffd_wp(vmf.orig_pte)
            or pte_write(vmf.orig_pte)
        ):
            return False
        if not userfaultfd_wp_async(vma):
            return True
        assert vmf.pte is not None
        vmf.orig_pte = pte_clear_uffd_wp(vmf.orig_pte)
        size = self.hstate_vma(vma).size
        self._kernel.hugetlbpage.set_huge_pte_at(
            vma.mm, vmf.address, vmf.pte, vmf.orig_pte, size
        )
        return False

    def _present(self, vmf: VmFault) -> tuple[int, Folio | None]:
        """Handle a fault on a mapped page.

        Returns:
            ``VM_FAULT_`` bits, and the folio whose lock must be waited for, if any.
        """
        vma = vmf.vma
        assert vmf.pte is not None
        if vmf.flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
            if not pte_write(vmf.orig_pte):
                folio = self.folio(vmf.orig_pte)
                anon = folio.anon
                if anon and not folio_trylock(folio):
                    return 0, folio
                folio.refcount += 1
                result = self.hugetlb_wp(vmf)
                if anon:
                    folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return result, None
            if vmf.flags & FAULT_FLAG_WRITE:
                vmf.orig_pte = pte_mkdirty(vmf.orig_pte)
        vmf.orig_pte = pte_mkyoung(vmf.orig_pte)
        self._kernel.hugetlbpage.huge_ptep_set_access_flags(
            vma,
            vmf.address,
            vmf.pte,
            vmf.orig_pte,
            self.hstate_vma(vma).size,
            dirty=bool(vmf.flags & FAULT_FLAG_WRITE),
        )
        return 0, None

    # -- nothing there ---------------------------------------------------------------

    def hugetlb_no_page(self, vmf: VmFault, mutex: SpinLock) -> int:
        """Map a page of the file, or a new one; the locks are released."""
        vma = vmf.vma
        h = self.hstate_vma(vma)
        mapping = self.mapping(vma)
        if self.is_vma_resv_set(vma, HPAGE_RESV_UNMAPPED):
            # What was here went to the owner of the promise; zeros would be a lie.
            return self._unlock(vmf, mutex, VM_FAULT_SIGBUS)
        folio = self.filemap_lock_hugetlb_folio(mapping, vmf.pgoff)
        reason = VM_UFFD_MINOR if folio is not None else VM_UFFD_MISSING
        anon = False
        if folio is None:
            if vmf.pgoff >= mapping.host.size >> h.shift:
                return self._unlock(vmf, mutex, VM_FAULT_SIGBUS)
            if userfaultfd_missing(vma):
                return self._handle_userfault(vmf, mutex, reason)
            anon = not vma.flags & VM_MAYSHARE
            folio = self._new_page(vmf, anon=anon)
            if folio is None:
                stable = self.hugetlb_pte_stable(vmf)
                stable = self._machine.holds("hugetlb_pte_stable", stable)
                return self._unlock(vmf, mutex, VM_FAULT_SIGBUS if stable else 0)
        elif userfaultfd_minor(vma):
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            return self._handle_userfault(vmf, mutex, reason)
        assert vmf.pte is not None
        vmf.ptl = self.huge_pte_lockptr(vma, vmf.pte)
        vmf.ptl.acquire()
        if self._machine.holds("pte_same", self._pte_same(vmf)):
            return self._unlock(vmf, mutex, self._map(vmf, folio, anon=anon))
        vmf.ptl.release()  # somebody was faster
        if anon:
            self.restore_reserve_on_error(h, vma, vmf.address, folio)
        folio_unlock(self._machine, folio)
        self._kernel.swap.folio_put(folio)
        return self._unlock(vmf, mutex, 0)

    def _handle_userfault(self, vmf: VmFault, mutex: SpinLock, reason: int) -> int:
        """Ask who watches the area: hugetlb_handle_userfault()."""
        stable = self.hugetlb_pte_stable(vmf)
        self._unlock(vmf, mutex, 0)
        if not self._machine.holds("hugetlb_pte_stable", stable):
            return 0
        return self._kernel.fs_userfaultfd.handle_userfault(vmf, reason)

    def _new_page(self, vmf: VmFault, *, anon: bool) -> HugetlbFolio | None:
        """Return a locked page of zeros: private, or one that the file has now too."""
        vma = vmf.vma
        if anon:
            self._kernel.rmap.anon_vma_prepare(vma)
        folio = self.alloc_hugetlb_folio(vma, vmf.address, cow_from_owner=False)
        if folio is None:
            return None
        self._machine.memory.clear_frames(folio.pfn, folio.nr_pages)
        folio.flags |= PG_uptodate
        folio_lock(self._machine, folio)
        if not anon:
            self.hugetlb_add_to_page_cache(folio, self.mapping(vma), vmf.pgoff)
        return folio

    def filemap_lock_hugetlb_folio(
        self, mapping: AddressSpace, index: int
    ) -> HugetlbFolio | None:
        """Return the huge page of a file, locked and with a reference, or ``None``."""
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
        """
        folio.mapping = mapping
        folio.index = index << folio.order
        folio.refcount += folio.nr_pages
        folio.restore_reserve = False
        mapping.pages[index] = folio
        mapping.ops.dirty_folio(mapping, folio)

    def _map(self, vmf: VmFault, folio: HugetlbFolio, *, anon: bool) -> int:
        """Map a locked huge page, and unlock it and the table, which is locked too."""
        vma = vmf.vma
        h = self.hstate_vma(vma)
        assert vmf.pte is not None
        assert vmf.ptl is not None
        if anon:
            self._kernel.rmap.hugetlb_add_new_anon_rmap(folio, vma, vmf.address)
        else:
            self._kernel.rmap.hugetlb_add_file_rmap(folio, vma)
        pte = self.make_huge_pte(vma, folio, try_mkwrite=bool(vma.flags & VM_SHARED))
        if pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            pte = pte_mkuffd_wp(pte)
        self._kernel.hugetlbpage.set_huge_pte_at(
            vma.mm, vmf.address, vmf.pte, pte, h.size
        )
        vma.mm.hugetlb_usage += folio.nr_pages
        result = 0
        locked = True
        if vmf.flags & FAULT_FLAG_WRITE and not vma.flags & VM_SHARED:
            if not anon:
                locked = False
                folio_unlock(self._machine, folio)
            result = self.hugetlb_wp(vmf)  # without a second fault
        vmf.ptl.release()
        if locked:
            folio_unlock(self._machine, folio)
        return result

    def make_huge_pte(
        self, vma: VmArea, folio: HugetlbFolio, *, try_mkwrite: bool
    ) -> int:
        """Return the entry of a huge page, writable if that is wanted and allowed."""
        pgtable = self._pgtable
        pte = pgtable.pfn_pte(folio.pfn, vma.page_prot)
        if try_mkwrite and vma.flags & VM_WRITE:
            pte = pgtable.pte_mkwrite(pte_mkdirty(pte))
        else:
            pte = pte_wrprotect(pte)
        return self._kernel.hugetlbpage.arch_make_huge_pte(
            pte_mkyoung(pte), folio.hstate.size
        )

    # -- copy on write ---------------------------------------------------------------

    def hugetlb_wp(self, vmf: VmFault) -> int:
        """Handle a write to a page that is mapped read-only; the table is locked.

        A private page that nobody else maps is made writable; any other is copied. If
        there is no page for the copy, and the area was promised all of its pages, the
        page is taken from the children that still have it.
        """
        vma = vmf.vma
        h = self.hstate_vma(vma)
        assert vmf.pte is not None
        pte = self._kernel.hugetlbpage.huge_ptep_get(vmf.pte, h.size)
        unshare = bool(vmf.flags & FAULT_FLAG_UNSHARE)
        if not unshare and pte_uffd_wp(pte):
            return 0
        if vma.flags & VM_MAYSHARE:
            self._set_huge_ptep_writable(vmf)
            return 0
        old = self.folio(pte)
        while True:
            if old.mapcount == 1 and old.anon:
                if not old.page_exclusive(old.pfn):
                    self._kernel.rmap.folio_move_anon_rmap(old, vma)
                    self._kernel.rmap.set_page_anon_exclusive(old, old.pfn)
                if not unshare and vma.flags & VM_WRITE:
                    self._set_huge_ptep_writable(vmf)
                return 0
            from_owner = old.anon and self.is_vma_resv_set(vma, HPAGE_RESV_OWNER)
            assert vmf.ptl is not None
            old.refcount += 1
            vmf.ptl.release()
            new = self.alloc_hugetlb_folio(vma, vmf.address, cow_from_owner=from_owner)
            if new is not None:
                result = self._wp_copy(vmf, pte, old, new, unshare=unshare)
                vmf.ptl.acquire()
                return result
            self._kernel.swap.folio_put(old)
            if not from_owner:
                vmf.ptl.acquire()
                return VM_FAULT_SIGBUS
            if not self._take_from_children(vmf, old, pte):
                return 0

    def _set_huge_ptep_writable(self, vmf: VmFault) -> None:
        """Make an entry writable and dirty where it stands."""
        assert vmf.pte is not None
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vmf.vma).size
        pte = pte_mkdirty(huge.huge_ptep_get(vmf.pte, size))
        huge.huge_ptep_set_access_flags(
            vmf.vma,
            vmf.address,
            vmf.pte,
            self._pgtable.pte_mkwrite(pte),
            size,
            dirty=True,
        )

    def _take_from_children(self, vmf: VmFault, old: HugetlbFolio, pte: int) -> bool:
        """Unmap a page from those who were not promised one; the table ends locked.

        Returns:
            False if the entry has changed meanwhile, and nothing is left to do.
        """
        vma = vmf.vma
        h = self.hstate_vma(vma)
        mutex = self.fault_mutex(self.inode(vma), vmf.pgoff)
        self._unlock(vmf, mutex, 0)
        self.unmap_ref_private(vma, old, vmf.address)
        mutex.acquire()
        self.hugetlb_vma_lock_read(vma)
        assert vmf.ptl is not None
        vmf.ptl.acquire()
        vmf.pte = self.hugetlb_walk(vma, vmf.address, h.size)
        return vmf.pte is not None and self._machine.holds(
            "pte_same", self._kernel.hugetlbpage.huge_ptep_get(vmf.pte, h.size) == pte
        )

    def _wp_copy(
        self,
        vmf: VmFault,
        pte: int,
        old: HugetlbFolio,
        new: HugetlbFolio,
        *,
        unshare: bool,
    ) -> int:
        """Map a copy in place of *old*, on which the caller has a reference."""
        vma = vmf.vma
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        rmap = self._kernel.rmap
        rmap.anon_vma_prepare(vma)
        self.copy_user_large_folio(new, old)
        new.flags |= PG_uptodate
        assert vmf.ptl is not None
        copied = False
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
                copied = True
                entry = self.make_huge_pte(vma, new, try_mkwrite=not unshare)
                huge.huge_ptep_clear_flush(vma, vmf.address, vmf.pte, h.size)
                rmap.hugetlb_remove_rmap(old, vma)
                rmap.hugetlb_add_new_anon_rmap(new, vma, vmf.address)
                if pte_uffd_wp(pte):
                    entry = pte_mkuffd_wp(entry)
                huge.set_huge_pte_at(vma.mm, vmf.address, vmf.pte, entry, h.size)
        if not copied:
            self.restore_reserve_on_error(h, vma, vmf.address, new)
            self._kernel.swap.folio_put(new)
        else:
            self._kernel.swap.folio_put(old)  # the entry's
        self._kernel.swap.folio_put(old)
        return 0

    def copy_user_large_folio(self, new: HugetlbFolio, old: HugetlbFolio) -> None:
        """Copy the contents of a huge page."""
        for n in range(new.nr_pages):
            self._machine.memory.copy_frame(old.pfn + n, new.pfn + n)

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
            if vm_shared and idx in mapping.pages:  # hugetlbfs_pagecache_present()
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
