// Loads an unmodified x86-64 ELF program, static or dynamic, as Linux would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "process.hpp"

namespace tidemill::aquifer {

struct Loaded {
  uint64_t entry = 0;          // where the guest begins: the interpreter's if there is one
  uint64_t program_entry = 0;  // AT_ENTRY
  uint64_t headers = 0;        // AT_PHDR
  uint64_t header_count = 0;
  uint64_t interpreter_base = 0;  // AT_BASE
};

// Takes the top of the address space for the stack; before anything else is taken.
void reserve_stack(Process& process);

// Throws std::invalid_argument: the file is outside the roots, damaged, or of another kind.
Loaded load_program(Process& process, const std::string& path);

// Arguments, environment and auxiliary vector; gives the stack pointer to start with.
uint64_t build_stack(Process& process, const Loaded& loaded,
                     const std::vector<std::string>& arguments,
                     const std::vector<std::string>& environment, uint32_t capabilities);

}  // namespace tidemill::aquifer
