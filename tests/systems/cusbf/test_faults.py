"""Damaged input, absurd parameters, full disks and kills: one clear error each, nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tidemill.errors import ConfigError, CorruptFile, InputError, OutOfPool, TidemillError
from tidemill.systems.cusbf import BlockedBloom, SuperBloom
from tidemill.systems.cusbf.cli import app
from tidemill.systems.cusbf.sequences import BATCH_RECORDS, read_batches
from tidemill.systems.cusbf.workloads import genome, random_genome

FASTA = b">one\n" + b"ACGTTGCAAC" * 20 + b"\n>two\n" + b"GGTTCAAGCT" * 20 + b"\n"
FASTQ = b"@r1\nACGTACGT\n+\nIIIIIIII\n@r2\nACGTACGA\n+\nIIIIIIII\n"
GZIPPED = gzip.compress(FASTA * 500)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x10
    return bytes(changed)


DAMAGED_SEQUENCES = {
    "truncated gzip": GZIPPED[: len(GZIPPED) // 2],
    "gzip cut before its trailer": GZIPPED[:-8],
    "gzip cut inside its trailer": GZIPPED[:-3],
    "gzip header only": GZIPPED[:10],
    "bad gzip crc": flipped(GZIPPED, len(GZIPPED) - 6),
    "bad gzip length": flipped(GZIPPED, len(GZIPPED) - 2),
    "garbage after gzip magic": b"\x1f\x8b" + os.urandom(64),
    "binary junk": bytes(range(1, 255)) * 20,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "text": b"hello, this is no sequence\n",
    "json": b'{"sequence": "ACGT"}',
    "zstd magic only": b"\x28\xb5\x2f\xfd" + bytes(30),
    "xz magic only": b"\xfd7zXZ\x00" + bytes(30),
    "bzip2 magic only": b"BZh9" + bytes(30),
    "fastq cut in a record": FASTQ[:-12],
    "fastq quality too short": FASTQ.replace(b"IIIIIIII\n@r2", b"IIII\n@r2"),
    "fastq without plus": FASTQ.replace(b"+\n", b"", 1),
    "fastq name without at": b"@r1\nACGT\n+\nIIII\nr2\nACGT\n+\nIIII\n",
}


@pytest.mark.parametrize("name", DAMAGED_SEQUENCES)
def test_a_damaged_sequence_file_gives_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(DAMAGED_SEQUENCES[name])
    made = SuperBloom(1 << 20, k=5, s=4, m=3)
    with pytest.raises(CorruptFile) as caught:
        made.insert_file(path)
    text = str(caught.value)
    assert str(path) in text
    assert "record" in text
    assert "Inserted before it:" in text


def test_what_came_before_the_damage_is_inserted_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "cut.fq"
    path.write_bytes(FASTQ[:-12])
    made = SuperBloom(1 << 16, k=5, s=4, m=3)
    with pytest.raises(CorruptFile, match="1 records, 4 k-mers"):
        made.insert_file(path)
    assert made.contains("ACGTACGT").all()


@pytest.mark.parametrize(
    ("data", "kmers"),
    [
        (b"", 0),
        (b">empty\n>also\n\n", 0),
        (b">short\nACG\n", 0),
        (b">crlf\r\nACGTACGTAC\r\nGT\r\n", 8),
        (b">wrapped\nACGTA\nCGTAC\nGT", 8),
        (b">lower\nacgtacgtacgu\n", 8),
        (b">ns\nACGTACGTACNACGTACGTAC\n", 12),
    ],
    ids=["empty", "empty records", "short", "crlf", "no final newline", "lower case", "n"],
)
def test_odd_but_valid_files_are_read(data: bytes, kmers: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.fa"
    path.write_bytes(data)
    assert SuperBloom(1 << 12, k=5, s=4, m=3).insert_file(path).kmers == kmers


def test_protein_text_is_warned_about_with_counts(tmp_path: Path) -> None:
    path = tmp_path / "protein.fa"
    path.write_bytes(b">p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKAL\n")
    with pytest.warns(UserWarning, match="windows hold other letters"):
        SuperBloom(1 << 12).insert_file(path)


ABSURD = {
    "k=33": {"k": 33},
    "k=0": {"k": 0},
    "s above k": {"k": 21, "s": 28},
    "s=0": {"s": 0},
    "m above k": {"k": 15, "s": 12},
    "m=0": {"m": 0},
    "hashes=5": {"hashes": 5},
    "hashes=20": {"hashes": 20},
    "hashes=0": {"hashes": 0},
    "too few bits": {"bits": 100},
    "bits=0": {"bits": 0},
    "negative bits": {"bits": -(1 << 20)},
    "bits=2^60": {"bits": 1 << 60},
    "negative seed": {"seed": -1},
    "seed=2^64": {"seed": 1 << 64},
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_parameter_is_refused_by_name_value_and_range(name: str) -> None:
    parameters = {"bits": 1 << 20} | ABSURD[name]
    with pytest.raises(ConfigError) as caught:
        SuperBloom(**parameters)
    assert isinstance(caught.value, ValueError)
    assert "must be" in str(caught.value)


SCARCE = """
import resource
from tidemill.errors import OutOfPool
from tidemill.systems.cusbf import SuperBloom
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    SuperBloom(1 << 36)
except OutOfPool as error:
    print(error)
"""


def test_memory_that_is_not_there_is_said_not_crashed_on() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SCARCE], capture_output=True, text=True, check=True
    )
    assert "must fit into free memory" in said.stdout


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = SuperBloom(1 << 14)
    made.insert(genome("lambda").sequence[:500])
    made.save(tmp_path / "filter.sbf")
    return tmp_path / "filter.sbf"


DAMAGED_FILTERS = {
    "empty": lambda data: b"",
    "header cut": lambda data: data[:40],
    "header only": lambda data: data[:64],
    "payload cut": lambda data: data[:-100],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "wrong magic": lambda data: b"XX" + data[2:],
    "version 9": lambda data: flipped(data, 8),
    "kind": lambda data: flipped(data, 10),
    "k": lambda data: flipped(data, 11),
    "hashes": lambda data: flipped(data, 14),
    "shard count": lambda data: flipped(data, 32),
    "huge shard count": lambda data: data[:39] + b"\xff" + data[40:],
    "header crc": lambda data: flipped(data, 61),
    "bit in the first word": lambda data: flipped(data, 64),
    "bit in the middle": lambda data: flipped(data, len(data) // 2),
    "checksum": lambda data: flipped(data, len(data) - 1),
    "gzip instead": gzip.compress,
    "text mode newlines": lambda data: data.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", DAMAGED_FILTERS)
def test_a_damaged_filter_is_never_half_loaded(name: str, mapped: bool, saved: Path) -> None:
    saved.write_bytes(DAMAGED_FILTERS[name](saved.read_bytes()))
    with pytest.raises(CorruptFile) as caught:
        SuperBloom.load(saved, mmap=mapped)
    assert str(saved) in str(caught.value)
    assert "must be" in str(caught.value)


def test_every_flipped_bit_of_a_header_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for bit in range(64 * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(changed)
        with pytest.raises(CorruptFile):
            SuperBloom.load(saved)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (SuperBloom(1 << 14, seed=1), "seed"),
        (SuperBloom(1 << 14, s=27), "s="),
        (SuperBloom(1 << 15), "shards"),
        (SuperBloom(1 << 14, canonical=False), "canonical"),
        (BlockedBloom(1 << 14), "kind"),
    ],
    ids=["seed", "s", "size", "strands", "kind"],
)
def test_filters_built_differently_do_not_merge(other: SuperBloom, named: str) -> None:
    made = SuperBloom(1 << 14)
    with pytest.raises(ConfigError, match=named):
        made |= other


def test_a_mapped_filter_is_read_only(saved: Path) -> None:
    mapped = SuperBloom.load(saved, mmap=True)
    with pytest.raises(InputError, match="read-only"):
        mapped.insert("ACGT" * 20)


@pytest.mark.parametrize("wrong", [3.5, None, ["ACGT"], np.zeros((3, 3), np.uint8), np.zeros(9)])
def test_what_holds_no_letters_is_refused(wrong: object) -> None:
    with pytest.raises(InputError):
        SuperBloom(1 << 12).insert(wrong)  # type: ignore[arg-type]


def test_one_kmer_means_k_letters() -> None:
    with pytest.raises(InputError, match="must be one k-mer"):
        _ = "ACGT" in SuperBloom(1 << 12)


KILLED_SAVE = """
import sys
from tidemill.systems.cusbf import SuperBloom
made = SuperBloom(1 << 29)
made.insert(b"ACGTTGCATT" * 100)
print("saving", flush=True)
while True:
    made.save(sys.argv[1])
"""


def test_kill_9_while_saving_leaves_a_whole_filter(tmp_path: Path) -> None:
    path = tmp_path / "filter.sbf"
    old = SuperBloom(1 << 14)
    old.insert("ACGTTGCATT" * 10)
    old.save(path)
    for delay_s in (0.0, 0.05, 0.15, 0.3):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED_SAVE, str(path)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay_s)  # the moment of the kill is what varies, nothing waits for it
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert SuperBloom.load(path).contains("ACGTTGCATT" * 10).all()


def test_a_full_disk_leaves_the_old_filter(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        small = SuperBloom(1 << 14)
        small.insert("ACGTTGCATT" * 10)
        small.save(disk / "filter.sbf")
        with pytest.raises(OutOfPool, match="untouched"):
            SuperBloom(1 << 25).save(disk / "filter.sbf")
        assert SuperBloom.load(disk / "filter.sbf").contains("ACGTTGCATT" * 10).all()
        assert [path.name for path in disk.iterdir()] == ["filter.sbf"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidemill", "cusbf", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_commands_build_query_merge_and_screen(tmp_path: Path) -> None:
    fasta = tmp_path / "phage.fa"
    fasta.write_bytes(b">lambda\n" + genome("lambda").sequence.tobytes().strip() + b"\n")
    reads = tmp_path / "reads.fa"
    letters = genome("lambda").sequence.tobytes()[1000:1150].decode()
    reads.write_text(f">phage\n{letters}\n>other\n{'ACGGTTAACC' * 15}\n")
    index, both = tmp_path / "a.sbf", tmp_path / "b.sbf"
    built = json.loads(command("build", fasta, "-o", index, "--fpr", "1e-4", "--json").stdout)
    assert built["kmers"] == len(genome("lambda").sequence) - 30
    rows = [
        json.loads(line)
        for line in command("query", index, reads, "--json").stdout.split("\n")
        if line
    ]
    assert [(row["name"], row["found"]) for row in rows] == [("phage", True), ("other", False)]
    assert command("merge", index, index, "-o", both).returncode == 0
    assert json.loads(command("info", both, "--json").stdout)["bits"] == built["bits"]
    kept, dropped = tmp_path / "kept.fa.gz", tmp_path / "rest.fa"
    assert command("screen", index, reads, "-o", kept).returncode == 0
    assert command("screen", index, reads, "--drop", "-o", dropped).returncode == 0
    assert gzip.decompress(kept.read_bytes()).startswith(b">phage\n")
    assert dropped.read_text().startswith(">other\n")


@pytest.mark.parametrize("order", [("reads.fa", "reads.fq"), ("reads.fq", "reads.fa")])
def test_fasta_and_fastq_are_not_screened_into_one_file(
    order: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "reads.fa").write_bytes(FASTA)
    (tmp_path / "reads.fq").write_bytes(FASTQ)
    SuperBloom(1 << 12, k=5, s=4, m=3).save(tmp_path / "none.sbf")
    out = tmp_path / "out.gz"
    files = [tmp_path / name for name in order]
    result = command("screen", tmp_path / "none.sbf", *files, "--drop", "-o", out)
    assert result.returncode == 2
    assert "must be one kind throughout" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.sbf", "reads.fa", "reads.fq"]


def test_a_file_of_empty_records_is_read_in_bounded_batches(tmp_path: Path) -> None:
    path = tmp_path / "empty.fa"
    path.write_bytes(b">\n" * (2 * BATCH_RECORDS + 1))
    assert [len(batch.records) for batch in read_batches(path)] == [BATCH_RECORDS] * 2 + [1]


@pytest.mark.parametrize(
    "words",
    [
        ("build", "/no/such.fa", "-o", "x.sbf"),
        ("build", "/no/such.fa", "-o", "."),
        ("build", "/no/such.fa", "-o", "/no/folder/x.sbf"),
        ("build", "-", "-o", "x.sbf"),
        ("info", "/no/such.sbf"),
        ("query", "/no/such.sbf", "x.fa"),
        ("merge", "one.sbf", "-o", "x.sbf"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_says_one_line_and_exits_2(words: tuple[str, ...]) -> None:
    result = command(*words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert issubclass(CorruptFile, TidemillError)


@pytest.mark.parametrize("through_link", [False, True])
def test_no_command_writes_over_what_it_reads(tmp_path: Path, through_link: bool) -> None:
    fasta, index = tmp_path / "phage.fa", tmp_path / "phage.sbf"
    fasta.write_bytes(b">phage\n" + genome("lambda").sequence.tobytes().strip() + b"\n")
    run = CliRunner()
    assert run.invoke(app, ["build", str(fasta), "-o", str(index)]).exit_code == 0
    before = fasta.read_bytes(), index.read_bytes()

    def named(path: Path) -> str:
        if not through_link:
            return str(path)
        link = tmp_path / f"link-{path.name}"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return str(link)

    for words in (
        ["build", str(fasta), "-o", named(fasta)],
        ["screen", str(index), str(fasta), "--drop", "-o", named(fasta)],
        ["screen", str(index), str(fasta), "-o", named(index)],
        ["merge", str(index), str(index), "-o", named(index)],
    ):
        done = run.invoke(app, words)
        assert isinstance(done.exception, ConfigError), words
        assert "which is read" in str(done.exception)
    assert (fasta.read_bytes(), index.read_bytes()) == before
    assert not list(tmp_path.glob("*.part-*"))


def test_a_claim_is_measured_on_the_users_own_genome(tmp_path: Path) -> None:
    fasta = tmp_path / "own.fa"
    fasta.write_bytes(b">own\n" + random_genome(5000, seed=1).sequence.tobytes() + b"\n")
    assert len(genome(str(fasta)).sequence) == 5000
    with pytest.raises(ConfigError, match=r"genome='nowhere\.fa'"):
        genome("nowhere.fa")
