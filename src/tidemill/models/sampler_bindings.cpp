// The sampler as Python sees it; a logit that is no number becomes a ValueError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "sampler.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tidemill::models {

namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

int32_t sample(Sampler& sampler, const Logits& logits) {
  const nb::gil_scoped_release release;
  return sampler.sample({logits.data(), logits.size()});
}

}  // namespace

void bind_sampler(nb::module_& m) {
  nb::class_<SamplingSettings>(m, "SamplingSettings")
      .def(nb::init<>())
      .def_rw("temperature", &SamplingSettings::temperature)
      .def_rw("top_k", &SamplingSettings::top_k)
      .def_rw("top_p", &SamplingSettings::top_p)
      .def_rw("min_p", &SamplingSettings::min_p)
      .def_rw("repetition_penalty", &SamplingSettings::repetition_penalty)
      .def_rw("presence_penalty", &SamplingSettings::presence_penalty)
      .def_rw("frequency_penalty", &SamplingSettings::frequency_penalty)
      .def_rw("seed", &SamplingSettings::seed);
  nb::class_<Sampler>(m, "Sampler")
      .def(nb::init<const SamplingSettings&, std::vector<std::pair<int32_t, float>>>(),
           "settings"_a, "bias"_a)
      .def("see_prompt", &Sampler::see_prompt, "id"_a)
      .def("see_output", &Sampler::see_output, "id"_a)
      .def("sample", &sample, "logits"_a)
      .def_prop_ro("drawn", &Sampler::drawn);
  m.def("philox", &philox, "key"_a, "counter"_a);
  m.def("uniform", &uniform, "seed"_a, "counter"_a);
}

}  // namespace tidemill::models
