// What Python sees of the models' native room: each part binds itself.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace tidemill::models {
void bind_sampler(nb::module_& m);
void bind_tokenizer(nb::module_& m);
}  // namespace tidemill::models

void register_models(nb::module_& m) {
  tidemill::models::bind_sampler(m);
  tidemill::models::bind_tokenizer(m);
}
