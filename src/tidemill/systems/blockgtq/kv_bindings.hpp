// The packed cache and the recording one, for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace tidemill::blockgtq {

void bind_kv(nanobind::module_& m);

}  // namespace tidemill::blockgtq
