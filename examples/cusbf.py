"""Which of these reads come from E. coli? A k-mer filter answers in milliseconds."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tidemill.systems.cusbf import SuperBloom
from tidemill.systems.cusbf.workloads import genome, reads

ecoli, phage = genome("ecoli_k12"), genome("lambda")
index = SuperBloom.for_kmers(len(ecoli.sequence), fpr=1e-4)
report = index.insert(ecoli.sequence)
print(f"{report.kmers:,} k-mers in {index.bits / 8 / 2**20:.1f} MiB")
print(f"{report.shard_loads_per_kmer:.3f} shard loads per k-mer")

with TemporaryDirectory() as folder:
    path = Path(folder, "ecoli.sbf")
    index.save(path)
    shared = SuperBloom.load(path, mmap=True)  # read-only, one copy for all processes

    for source in (ecoli, phage):
        drawn = reads(source, 1000, length=150, error_rate=0.01, seed=7)
        found = sum(shared.contains(read).mean() >= 0.5 for read in drawn)
        print(f"{found} of {len(drawn)} reads of {source.name} belong to E. coli")
