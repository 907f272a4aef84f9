"""The ARM64 MMU and TLB, and the Linux flows that flush it, as a running model."""
