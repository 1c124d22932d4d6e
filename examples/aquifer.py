"""A Python function in a real microVM: snapshotted once, restored from two tiers of memory."""

from tidemill.systems.aquifer import require_kvm
from tidemill.systems.aquifer.capability import missing
from tidemill.systems.aquifer.pod import Pod
from tidemill.systems.aquifer.workloads import function

if reason := missing():
    print(f"no microVMs here: {reason}")
    raise SystemExit

require_kvm()
with Pod() as pod:  # a segment of pool memory and a memory node, both on this machine
    tenant = pod.admit(function("html_page"))  # boot, record on input A, pack, publish
    classes = tenant.maps.header
    print(
        f"{classes.guest_pages} pages: {classes.zero} zero, {classes.hot} hot, {classes.cold} cold"
    )

    with pod.agent.restore("html_page") as clone:
        answer = clone.invoke(tenant.function.measured())  # input B
        stats = clone.stats
    assert answer == tenant.answer
    print(
        f"restored in {stats.restore_ms:.1f} ms, {stats.hot_bytes >> 10} KiB copied before it ran"
    )
    print(
        f"faults while it ran: {stats.faults}, {stats.remote_bytes >> 10} KiB from the memory node"
    )
