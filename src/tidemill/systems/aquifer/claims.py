"""What the paper claims and what is measured in its stead (how: restores)."""

from __future__ import annotations

from tidemill.bench import Claim, Direction, Text, Trial
from tidemill.systems.aquifer import coherence, crowd, pod, restores

__all__ = ["CLAIMS"]

_OVER_FIRECRACKER = (
    "Aquifer achieves a 2.2x geometric-mean speedup in end-to-end invocation time over Firecracker"
)
_OVER_NEXT = "1.1x over the next best alternative"
_MOST = "the vast majority of pages are either zero or cold"
_ONLY_HOT = "places only the hot working set in the CXL pool"
_ELIMINATES = "a hotness-based snapshot format that eliminates zero pages"
_OWNERSHIP = "requires Aquifer's ownership-based coherence protocol to ensure correctness"
_BEFORE = "pre-installs hot pages from CXL memory before MicroVM resume"
_SERVES = "the first system to serve MicroVM snapshots from a hierarchical CXL+RDMA memory pool"

RESTORES = Trial(
    name="restores",
    measure=pod.in_pod(restores.restores),
    summary=Text(
        "Thirteen functions, restored in eight ways in turn.", "13 个函数,8 种恢复方式轮流进行。"
    ),
    quick_s=420,
    full_s=1200,
)
CHARACTERIZATION = Trial(
    name="characterization",
    measure=pod.in_pod(restores.characterization),
    summary=Text("What thirteen snapshots consist of.", "13 份快照的页面构成。"),
    quick_s=180,
    full_s=300,
)

PROTOCOL = Trial(
    name="protocol",
    measure=coherence.protocol,
    summary=Text("Every order of the ownership protocol's steps.", "所有权协议各步骤的全部次序。"),
    quick_s=120,
    full_s=600,
)

STRESS = Trial(
    name="stress",
    measure=coherence.stressed,
    summary=Text("Four hosts as processes, killed at random.", "4 个主机进程,随机强杀。"),
    quick_s=120,
    full_s=900,
)
FUZZ = Trial(
    name="fuzz",
    measure=coherence.fuzzed,
    summary=Text("Snapshots and handshakes that are almost right.", "近似正确的快照与握手消息。"),
    quick_s=60,
    full_s=700,
)
CROWD = Trial(
    name="crowd",
    measure=pod.in_pod(crowd.crowd),
    summary=Text("Many clones of one function.", "同一函数的大量克隆。"),
    quick_s=300,
    full_s=600,
    memory_mib=12_288,
)

_FROM_START = Text(
    "from the start of a restore to the answer, recorded on input A, asked input B",
    "从开始恢复到得到应答,以输入 A 记录、以输入 B 请求",
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="over-firecracker",
        quote=_OVER_FIRECRACKER,
        statement=Text(
            "Speed-up over a memory file on disk that is mapped privately, page cache dropped: "
            f"geometric mean of 13 functions, {_FROM_START.en}",
            "相对于私有映射的磁盘内存文件(页缓存已清空)的加速比:"
            f"13 个函数的几何平均,{_FROM_START.zh}",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=2.2,
        paper_value="2.2x",
        trial=RESTORES,
    ),
    Claim(
        id="over-firecracker-worst",
        quote=_OVER_FIRECRACKER,
        statement=Text("The same for the function that gains least", "同上,取收益最小的函数"),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.5,
        trial=RESTORES,
    ),
    Claim(
        id="over-firecracker-warm",
        quote=_OVER_FIRECRACKER,
        statement=Text(
            "The same against a memory file that is all in the page cache: geometric mean",
            "同上,对比内存文件全部在页缓存中的情形:几何平均",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.0,
        trial=RESTORES,
    ),
    Claim(
        id="over-next-best",
        quote=_OVER_NEXT,
        statement=Text(
            "Speed-up over the best single one of REAP from disk and from the pool, FaaSnap, "
            "mapping from the pool, and all pages from the memory nodes: geometric mean",
            "相对于最佳单一替代方案(磁盘或池上的 REAP、FaaSnap、池映射、全部远端取页)的加速比:"
            "几何平均",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.1,
        paper_value="1.1x",
        trial=RESTORES,
    ),
    Claim(
        id="over-next-best-worst",
        quote=_OVER_NEXT,
        statement=Text("The same for the function that gains least", "同上,取收益最小的函数"),
        unit="x",
        direction=Direction.AT_LEAST,
        target=0.85,
        trial=RESTORES,
    ),
    Claim(
        id="hot-faults",
        quote=_BEFORE,
        statement=Text(
            "Page faults on hot pages in all restores of the race, all hot bytes installed first",
            "竞速中所有恢复在热页上的缺页次数(全部热页均已预先装入)",
        ),
        unit="faults",
        direction=Direction.AT_MOST,
        target=0,
        trial=RESTORES,
    ),
    Claim(
        id="zero-share",
        quote=_MOST,
        statement=Text(
            "Share of zero pages in 13 snapshots of CPython guests",
            "13 份 CPython 快照中零页的比例",
        ),
        unit="%",
        direction=Direction.AT_LEAST,
        target=75,
        trial=CHARACTERIZATION,
    ),
    Claim(
        id="hot-share",
        quote=_MOST,
        statement=Text(
            "Share of hot pages: touched in at least half of the recordings",
            "热页比例:至少在一半记录中被访问",
        ),
        unit="%",
        direction=Direction.AT_MOST,
        target=10,
        trial=CHARACTERIZATION,
    ),
    Claim(
        id="pooled-share",
        quote=_ELIMINATES,
        statement=Text(
            "Bytes that snapshots take in both tiers, of the guests' memory",
            "快照在两级池中所占字节与客户机内存之比",
        ),
        unit="B/B",
        direction=Direction.AT_MOST,
        target=0.25,
        trial=CHARACTERIZATION,
    ),
    Claim(
        id="cxl-share",
        quote=_ONLY_HOT,
        statement=Text(
            "Bytes that they take in the CXL tier, maps included, of the guests' memory",
            "快照在 CXL 级所占字节(含映射表)与客户机内存之比",
        ),
        unit="B/B",
        direction=Direction.AT_MOST,
        target=0.12,
        trial=CHARACTERIZATION,
    ),
    Claim(
        id="exact-memory",
        quote=_SERVES,
        statement=Text(
            "Pages of a fresh clone that differ from its snapshot, whatever tier they came from",
            "新克隆中与快照不一致的页数(不论来自哪一级)",
        ),
        unit="pages",
        direction=Direction.AT_MOST,
        target=0,
        trial=CHARACTERIZATION,
    ),
    Claim(
        id="protocol-orders",
        quote=_OWNERSHIP,
        statement=Text(
            "Scenarios of two and three hosts in which some order of steps, cache write-backs and "
            "crashes gives a reader other bytes than were published, or that were not searched "
            "to the end",
            "在两台与三台主机的场景中,某种步骤、缓存写回与崩溃次序使读者得到错误数据或未搜索完的场景数",
        ),
        unit="scenarios",
        direction=Direction.AT_MOST,
        target=0,
        trial=PROTOCOL,
    ),
    Claim(
        id="protocol-mutants",
        quote=_OWNERSHIP,
        statement=Text(
            "Steps that can be left out of the protocol without the search noticing",
            "从协议中去掉而未被搜索发现的步骤数",
        ),
        unit="steps",
        direction=Direction.AT_MOST,
        target=0,
        trial=PROTOCOL,
    ),
    Claim(
        id="stress",
        quote=_OWNERSHIP,
        statement=Text(
            "Wrong bytes, epochs of two contents and lost space, with four hosts over incoherent "
            "caches and one killed every second or so",
            "4 台主机在无一致性缓存上运行、约每秒强杀其一时出现的错误数据、"
            "同一纪元两种内容与丢失空间",
        ),
        unit="violations",
        direction=Direction.AT_MOST,
        target=0,
        trial=STRESS,
    ),
    Claim(
        id="fuzz",
        quote=_ELIMINATES,
        statement=Text(
            "Altered `.aqs` files and Firecracker handshakes that their parsers neither accept nor "
            "refuse with an error of their own",
            "被篡改的 `.aqs` 文件与 Firecracker 握手消息中,解析器既未接受也未以自身错误拒绝的数量",
        ),
        unit="crashes",
        direction=Direction.AT_MOST,
        target=0,
        trial=FUZZ,
    ),
    Claim(
        id="density",
        quote=_SERVES,
        statement=Text(
            "Clones that have answered once and fit in 4 GiB, over those of a lazily mapped memory "
            "file in the page cache",
            "4 GiB 内可容纳的已应答一次的克隆数,与惰性映射内存文件(在页缓存中)之比",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.0,
        trial=CROWD,
    ),
    Claim(
        id="at-once",
        quote=_SERVES,
        statement=Text(
            "Of a hundred restores at the same time, those that fail or answer wrongly",
            "同时进行的 100 次恢复中失败或答错的次数",
        ),
        unit="restores",
        direction=Direction.AT_MOST,
        target=0,
        trial=CROWD,
    ),
)
