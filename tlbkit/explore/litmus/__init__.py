"""Litmus tests of translation: small programs, and what their executions can end with.

`load` reads a file of tests, `judge` gives the verdict on one (and, for an outcome that
can happen, an execution that ends so), `outcomes` gives all that can happen,
`catalogue` the tests that come with the package. The model that runs them is
`tlbkit.arm64.ordering`; a verdict of "forbidden" means that every execution was tried.

The text form::

    # from here to the end of the line is a comment
    test mp-remap+dsb-tlbi-dsb+isb
      about x moves to another frame          (optional; for people)
      hardware none                           (optional: none, af, dirty)
      frame b = 1                             (first value; 0 if not given)
      page x = frame a                        (first entry; its own frame if not given)
      entry A = frame b                       (a table word that the steps name)
      P0: pte(x) := A; DSB; TLBI.is(x); DSB; flag := 1
      P1: r := flag; ISB; v := x
      exists P1.r = 1 and P1.v = 0
      expect allowed allowed                  (optional: without and with FEAT_ETS2)

Any page, frame, entry and register is there once it is named. A page that no line
describes is valid and writable and has a frame of its own name. An entry is written
`invalid`, or `frame NAME` and any of `read-only`, `af 0`, `dbm`, with commas between
(not said: `writable`, `af 1`, no hardware dirty management). `hardware` says what every
CPU does by itself: `af` sets access flags, `dirty` also makes `dbm` entries writable.

The steps of P0, P1 and P2, with `;` between; a line more of a thread goes on with it:

=========================== ==========================================================
`x := 1`                    store to the data of page x
`r := x`, `LD x`            load it, into a register or only for its fault
`pte(x) := A`               store to the table word of page x
`r := pte(x)`               load it
`r := SWAP(pte(x), A)`      exchange it; the register is optional
`r := CAS(pte(x), A, B)`    exchange it for B if it is A; likewise
`r := LDAR(x)`              load-acquire, also of `pte(x)`
`STLR(x) := 1`              store-release, likewise
`DMB`, `DSB`                of `ish`; also `.st`, `.ld`, and `.ish`, `.ishst`, `.ishld`,
                            the same of `nsh`, `osh` and `sy`
`ISB`                       instruction synchronisation barrier
`TLBI.is(x)`, `.is(all)`    invalidate a page, or everything, on every CPU
`TLBI.local(x)`, ...        the same on this CPU only
`BRANCH(r)`                 a branch that depends on r, going on here either way
=========================== ==========================================================

A page, frame or entry is named by no word of this form (`pte`, `all`, `permission`).
A register is read into once. A fault ends its thread; registers not read by then are 0.

The condition is made of `P1.r = 1`, `P1.r = A` (also `!=`), the last values `frame(b) =
1` and `pte(x) = A`, and `fault(P1)`, which may name a kind (`translation`,
`access_flag`, `permission`) and a page as in `fault(P1, permission, x)`; joined by
`not`, `and`, `or` and brackets.

The JSON form is a list of objects (or one) with the same words: `name`, `about`,
`hardware`; `frames`, `pages` and `entries`, objects from names to what stands behind
the equals sign; `threads`, an object from "P0" to a list of steps; `exists`; and
`expect`, a list of two verdicts. `dump_text` and `dump_json` write both forms.
"""

from tlbkit.explore.litmus.doubts import doubts
from tlbkit.explore.litmus.form import LitmusTest, dump_json, dump_text, load, to_json
from tlbkit.explore.litmus.search import (
    MAX_STATES,
    SearchTooLargeError,
    Verdict,
    catalogue,
    judge,
    outcomes,
)

__all__ = [
    "MAX_STATES",
    "LitmusTest",
    "SearchTooLargeError",
    "Verdict",
    "catalogue",
    "doubts",
    "dump_json",
    "dump_text",
    "judge",
    "load",
    "outcomes",
    "to_json",
]
