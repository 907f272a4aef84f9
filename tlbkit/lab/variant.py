"""Which kernel a scenario runs on."""

from dataclasses import dataclass

from tlbkit.patches.registry import DEFAULT_KERNEL


@dataclass(frozen=True, slots=True)
class Variant:
    """Which kernel a scenario runs on.

    Attributes:
        kernel: A name of `tlbkit.patches.registry.KERNELS`.
        without: Hashes of commits to leave out besides, or their unique beginnings.
    """

    kernel: str = DEFAULT_KERNEL
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name it as a heading does.

        >>> str(Variant("v6.19", ("c320dbb7c80d",)))
        'v6.19 without c320dbb7c80d'
        """
        if not self.without:
            return self.kernel
        return f"{self.kernel} without {', '.join(self.without)}"
