// Products of packed weights with int8 inputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activations.hpp"

namespace tidemill::models {

// y[token * ldy + row] for the rows of `groups` row groups that start at `weights`; `rows` of them
// exist (the last group may be padded). y points at the first of these rows.
//
// Sums of integers are exact; floats are added block by block along the columns with fused
// multiply-adds, so that every build gives the same bits.
template <class F>
void multiply_groups(const uint8_t* weights, size_t groups, size_t rows, const Activations& x,
                     float* y, size_t ldy);

}  // namespace tidemill::models
