"""A second walker, slow and plain, to hold the first one against.

It knows nothing of the package: registers are 64-bit numbers, every bit position is
written out, and the shape of each granule is a table instead of a formula. One call
answers one access, from the VA to what hardware writes back.

Source: Arm ARM (DDI 0487) D8.2 to D8.5.
"""

# For each granule the VA bits that each level resolves. The top one is a maximum.
INDEX_BITS = {
    "4K": {-1: (51, 48), 0: (47, 39), 1: (38, 30), 2: (29, 21), 3: (20, 12)},
    "16K": {0: (51, 47), 1: (46, 36), 2: (35, 25), 3: (24, 14)},
    "64K": {1: (51, 42), 2: (41, 29), 3: (28, 16)},
}
BLOCK_LEVELS = {"4K": {1, 2}, "16K": {2}, "64K": {2}}
BLOCK_LEVELS_52 = {"4K": {0, 1, 2}, "16K": {1, 2}, "64K": {1, 2}}
# Entries in a contiguous group.
GROUPS = {
    "4K": {3: 16, 2: 16, 1: 16},
    "16K": {3: 128, 2: 32},
    "64K": {3: 32, 2: 32},
}
TG0 = {0: "4K", 1: "64K", 2: "16K"}
TG1 = {1: "16K", 2: "4K", 3: "64K"}
SIZES = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52}


def bits(value, high, low):
    """Bits *high* to *low* of a number."""
    return (value >> low) % (1 << (high - low + 1))


def access(registers, pa_range, read, va, kind, el, pan):
    """What an access meets.

    Args:
        registers: TCR, MAIR, TTBR0, TTBR1, SCTLR.
        pa_range: address bits of the CPU, which has every option.
        read: memory.
        va: the address.
        kind: "ld", "st" or "ex".
        el: exception level.
        pan: PSTATE.PAN.

    Returns:
        ("fault", kind, level), or ("ok", physical address of the byte, memory type,
        shareability, address of the leaf descriptor, that descriptor afterwards,
        log2 of the bytes of the contiguous group, nG).
    """
    tcr, sctlr = registers["TCR"], registers["SCTLR"]
    upper = bits(va, 55, 55)
    granule = TG1[bits(tcr, 31, 30)] if upper else TG0[bits(tcr, 15, 14)]
    input_bits = 64 - (bits(tcr, 21, 16) if upper else bits(tcr, 5, 0))
    tbi, tbid = bits(tcr, 37 + upper, 37 + upper), bits(tcr, 51 + upper, 51 + upper)
    top = 55 if tbi and not (tbid and kind == "ex") else 63
    if bits(va, top, input_bits) != upper * ((1 << (top - input_bits + 1)) - 1):
        return "fault", "translation", 0
    if el == 0 and bits(tcr, 55 + upper, 55 + upper):  # E0PD
        return "fault", "translation", 0
    if bits(tcr, 23 if upper else 7, 23 if upper else 7):  # EPD
        return "fault", "translation", 0

    ds = granule != "64K" and bits(tcr, 59, 59)
    lpa = granule == "64K" and pa_range == 52
    output_bits = min(SIZES[bits(tcr, 34, 32)], pa_range, 52 if ds or lpa else 48)

    ttbr = registers["TTBR1" if upper else "TTBR0"]
    table = bits(ttbr, 47, 6) << 6
    if ds or (lpa and bits(tcr, 34, 32) == 6):
        table |= bits(ttbr, 5, 2) << 48
    if table >> output_bits:
        return "fault", "address_size", 0

    no_el0 = read_only = uxn = pxn = 0
    levels = [lv for lv, (_, low) in INDEX_BITS[granule].items() if low < input_bits]
    for level in levels:
        high, low = INDEX_BITS[granule][level]
        entry_pa = table + 8 * bits(va, min(high, input_bits - 1), low)
        entry = read(entry_pa)
        blocks = (BLOCK_LEVELS_52 if ds or lpa else BLOCK_LEVELS)[granule]
        if bits(entry, 0, 0) == 0:
            return "fault", "translation", level
        if bits(entry, 1, 1) == 0 and level not in blocks:
            return "fault", "translation", level
        is_table = bits(entry, 1, 1) == 1 and level != 3
        size = INDEX_BITS[granule][3][1] if is_table else low
        target = bits(entry, 47, size) << size
        if ds:
            target |= bits(entry, 9, 8) << 50 | bits(entry, 49, 48) << 48
        elif lpa:
            target |= bits(entry, 15, 12) << 48
        if target >> output_bits:
            return "fault", "address_size", level
        if not is_table:
            break
        table = target
        if not bits(tcr, 41 + upper, 41 + upper):  # HPD
            pxn |= bits(entry, 59, 59)
            uxn |= bits(entry, 60, 60)
            no_el0 |= bits(entry, 61, 61)
            read_only |= bits(entry, 62, 62)

    hardware_af = bits(tcr, 39, 39)
    if not bits(entry, 10, 10) and not hardware_af:
        return "fault", "access_flag", level

    user = bits(entry, 6, 6) and not no_el0
    ro = bits(entry, 7, 7) or read_only
    uxn |= bits(entry, 54, 54)
    pxn |= bits(entry, 53, 53)
    wxn = bits(sctlr, 19, 19)
    after = entry | 1 << 10
    may_dirty = hardware_af and bits(tcr, 40, 40) and bits(entry, 51, 51)
    el0_executes = not uxn and not (wxn and user and not ro)
    if kind == "st" and ro and may_dirty and not read_only:
        ro = 0
        after &= ~(1 << 7)
    guarded = pan and (user or (bits(sctlr, 57, 57) and el0_executes))
    allowed = {
        ("ld", 1): not guarded,
        ("st", 1): not ro and not guarded,
        ("ld", 0): user,
        ("st", 0): user and not ro,
        ("ex", 1): not pxn and not (user and not ro) and not (wxn and not ro),
        ("ex", 0): el0_executes,
    }[kind, el]
    if not allowed:
        return "fault", "permission", level

    index = bits(entry, 4, 2)
    attr = bits(registers["MAIR"], 8 * index + 7, 8 * index)
    shareability = bits(entry, 9, 8)
    if ds:
        shareability = bits(tcr, 29, 28) if upper else bits(tcr, 13, 12)
    if attr < 16 or attr in {0x40, 0x44}:
        shareability = 0b10
    group = 1
    if bits(entry, 52, 52):
        group = GROUPS[granule].get(level, 1)
    group_bits = low + group.bit_length() - 1
    if group_bits > input_bits:
        group_bits = low
    pa = target | bits(va, low - 1, 0)
    nG = bits(entry, 11, 11)
    return "ok", pa, attr, shareability, entry_pa, after, group_bits, nG
