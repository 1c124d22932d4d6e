"""Whether microVMs can run here, and what to do if they cannot."""

from __future__ import annotations

import errno
import os
import platform

from tidemill.errors import MissingCapability

KVM = "/dev/kvm"


def require_kvm() -> None:
    """Return if this process may create virtual machines.

    Raises:
        MissingCapability: no x86-64 Linux, no `/dev/kvm`, or no permission; says how to get it.
    """
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise MissingCapability(
            f"a microVM needs Linux on x86-64; this is {platform.system()} on {platform.machine()}"
        )
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise _missing(error) from error


def _missing(error: OSError) -> MissingCapability:
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingCapability(
            f"{KVM} is there, but user {os.getuid()} may not open it; add the user to its group "
            "(`sudo usermod -aG kvm $USER`, then log in again), or, in a container, pass "
            f"`--device {KVM}`"
        )
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return MissingCapability(
            f"there is no {KVM}: turn on virtualisation in the firmware and `modprobe kvm_intel` "
            "or `kvm_amd`; in a virtual machine, turn on nested virtualisation; in a container, "
            f"pass `--device {KVM}`"
        )
    return MissingCapability(f"{KVM} cannot be opened: {error.strerror}")


def kvm_failed(error: OSError) -> MissingCapability:
    """The error for an ioctl of KVM that this host refuses."""
    return MissingCapability(
        f"KVM of this host cannot do what a microVM needs: {error.strerror or error}; it needs "
        "a kernel from 5.6 on with KVM_CAP_SYNC_REGS and memory to spare"
    )


def missing() -> str | None:
    """What this machine lacks for microVMs whose pages come from elsewhere; None if nothing."""
    from tidemill.memory import Userfaultfd

    try:
        require_kvm()
        Userfaultfd().close()
    except MissingCapability as error:
        return str(error)
    return None
