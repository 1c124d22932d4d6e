// What Python sees: checked buffers in, counts out, the GIL released while a kernel works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <tuple>

#include "keyed.hpp"
#include "mers.hpp"
#include "superbloom.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::cusbf {

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = std::tuple<uint64_t, uint64_t, uint64_t>;

Counts counts(const Tally& tally) { return {tally.kmers, tally.hits, tally.loads}; }

size_t windows(size_t letters, uint32_t k) { return letters < k ? 0 : letters - k + 1; }

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class Words>
void check_words(const Layout& layout, const Words& words) {
  require(words.size() == layout.shards * kWords, "words must hold four uint64 for each shard");
}

using Insert = Tally (*)(const Layout&, uint64_t*, const uint8_t*, size_t, unsigned, bool);
using Contains = Tally (*)(const Layout&, const uint64_t*, const uint8_t*, size_t, uint8_t*,
                           unsigned);

template <Insert kernel>
Counts insert(const Layout& layout, Out<uint64_t> words, In<uint8_t> sequence, unsigned threads,
              bool shared) {
  check_words(layout, words);
  const nb::gil_scoped_release release;
  return counts(kernel(layout, words.data(), sequence.data(), windows(sequence.size(), layout.k),
                       threads, shared));
}

template <Contains kernel>
Counts contains(const Layout& layout, In<uint64_t> words, In<uint8_t> sequence, Out<uint8_t> found,
                unsigned threads) {
  check_words(layout, words);
  const size_t kmers = windows(sequence.size(), layout.k);
  require(found.size() == kmers, "found must hold one byte for each window");
  const nb::gil_scoped_release release;
  return counts(kernel(layout, words.data(), sequence.data(), kmers, found.data(), threads));
}

template <auto kernel>
Counts insert_packed(const Layout& layout, Out<uint64_t> words, In<uint64_t> mers, bool shared) {
  check_words(layout, words);
  const nb::gil_scoped_release release;
  return counts(kernel(layout, words.data(), mers.data(), mers.size(), shared));
}

template <auto kernel>
Counts contains_packed(const Layout& layout, In<uint64_t> words, In<uint64_t> mers,
                       Out<uint8_t> found) {
  check_words(layout, words);
  require(found.size() == mers.size(), "found must hold one byte for each k-mer");
  const nb::gil_scoped_release release;
  return counts(kernel(layout, words.data(), mers.data(), mers.size(), found.data()));
}

void register_baselines(nb::module_& m) {
  m.def(
      "keyed_insert",
      [](Out<uint64_t> words, In<uint64_t> keys) {
        require(words.size() >= 4 && words.size() % 4 == 0, "words must hold whole blocks of four");
        const nb::gil_scoped_release release;
        keyed_insert(words.data(), words.size() / 4, keys.data(), keys.size());
      },
      "words"_a, "keys"_a);
  m.def(
      "keyed_contains",
      [](In<uint64_t> words, In<uint64_t> keys, Out<uint8_t> found) {
        require(words.size() >= 4 && words.size() % 4 == 0, "words must hold whole blocks of four");
        require(found.size() == keys.size(), "found must hold one byte for each key");
        const nb::gil_scoped_release release;
        return keyed_contains(words.data(), words.size() / 4, keys.data(), keys.size(),
                              found.data());
      },
      "words"_a, "keys"_a, "found"_a);
  static constexpr auto check_table = [](size_t slots) {
    require(slots >= 4 && (slots & (slots - 1)) == 0, "table must hold a power of two >= 4 slots");
  };
  m.def(
      "cuckoo_insert",
      [](Out<uint16_t> table, In<uint64_t> keys) {
        check_table(table.size());
        const nb::gil_scoped_release release;
        return cuckoo_insert(table.data(), table.size() / 4, keys.data(), keys.size());
      },
      "table"_a, "keys"_a);
  m.def(
      "cuckoo_contains",
      [](In<uint16_t> table, In<uint64_t> keys, Out<uint8_t> found) {
        check_table(table.size());
        require(found.size() == keys.size(), "found must hold one byte for each key");
        const nb::gil_scoped_release release;
        return cuckoo_contains(table.data(), table.size() / 4, keys.data(), keys.size(),
                               found.data());
      },
      "table"_a, "keys"_a, "found"_a);
}

void register_mers(nb::module_& m) {
  m.def(
      "pack_kmers",
      [](uint32_t k, bool canonical, In<uint8_t> sequence, Out<uint64_t> mers, Out<uint8_t> valid) {
        require(k >= 1 && k <= 32, "k must be in 1-32");
        const size_t kmers = windows(sequence.size(), k);
        require(mers.size() == kmers && valid.size() == kmers,
                "mers and valid: one for each window");
        const nb::gil_scoped_release release;
        return pack_kmers(k, canonical, sequence.data(), kmers, mers.data(), valid.data());
      },
      "k"_a, "canonical"_a, "sequence"_a, "mers"_a, "valid"_a);
  m.def(
      "count_distinct",
      [](uint32_t k, bool canonical, In<uint8_t> sequence, Out<uint8_t> registers,
         uint32_t precision) {
        require(k >= 1 && k <= 32, "k must be in 1-32");
        require(precision >= 4 && precision <= 20 && registers.size() == size_t{1} << precision,
                "registers must hold 2^precision bytes, precision in 4-20");
        const nb::gil_scoped_release release;
        return count_distinct(k, canonical, sequence.data(), windows(sequence.size(), k),
                              registers.data(), precision);
      },
      "k"_a, "canonical"_a, "sequence"_a, "registers"_a, "precision"_a);
  m.def(
      "count_ones",
      [](In<uint64_t> words) {
        const nb::gil_scoped_release release;
        return count_ones(words.data(), words.size());
      },
      "words"_a);
  m.def(
      "chance_of_all",
      [](In<uint64_t> words, uint32_t tests) {
        require(words.size() >= 4 && words.size() % 4 == 0, "words must hold whole shards of four");
        const nb::gil_scoped_release release;
        return chance_of_all(words.data(), words.size() / kWords, tests);
      },
      "words"_a, "tests"_a);
}

}  // namespace

}  // namespace tidemill::cusbf

void register_cusbf(nb::module_& m) {
  using namespace tidemill::cusbf;
  nb::class_<Layout>(m, "Layout")
      .def(nb::init<uint32_t, uint32_t, uint32_t, uint32_t, uint64_t, bool, uint64_t>(), "k"_a,
           "s"_a, "m"_a, "hashes"_a, "shards"_a, "canonical"_a, "seed"_a);
  m.def("super_insert", &insert<super_insert>, "layout"_a, "words"_a, "sequence"_a, "threads"_a,
        "shared"_a);
  m.def("super_contains", &contains<super_contains>, "layout"_a, "words"_a, "sequence"_a, "found"_a,
        "threads"_a);
  m.def("blocked_insert", &insert<blocked_insert>, "layout"_a, "words"_a, "sequence"_a, "threads"_a,
        "shared"_a);
  m.def("blocked_contains", &contains<blocked_contains>, "layout"_a, "words"_a, "sequence"_a,
        "found"_a, "threads"_a);
  m.def(
      "scalar_insert",
      [](const Layout& layout, Out<uint64_t> words, In<uint8_t> sequence) {
        check_words(layout, words);
        const nb::gil_scoped_release release;
        return counts(super_insert_scalar(layout, words.data(), sequence.data(),
                                          windows(sequence.size(), layout.k)));
      },
      "layout"_a, "words"_a, "sequence"_a);
  m.def(
      "scalar_contains",
      [](const Layout& layout, In<uint64_t> words, In<uint8_t> sequence, Out<uint8_t> found) {
        check_words(layout, words);
        const size_t kmers = windows(sequence.size(), layout.k);
        require(found.size() == kmers, "found must hold one byte for each window");
        const nb::gil_scoped_release release;
        return counts(
            super_contains_scalar(layout, words.data(), sequence.data(), kmers, found.data()));
      },
      "layout"_a, "words"_a, "sequence"_a, "found"_a);
  m.def("super_insert_packed", &insert_packed<super_insert_packed>, "layout"_a, "words"_a, "mers"_a,
        "shared"_a);
  m.def("super_contains_packed", &contains_packed<super_contains_packed>, "layout"_a, "words"_a,
        "mers"_a, "found"_a);
  m.def("blocked_insert_packed", &insert_packed<blocked_insert_packed>, "layout"_a, "words"_a,
        "mers"_a, "shared"_a);
  m.def("blocked_contains_packed", &contains_packed<blocked_contains_packed>, "layout"_a, "words"_a,
        "mers"_a, "found"_a);
  register_mers(m);
  register_baselines(m);
}
