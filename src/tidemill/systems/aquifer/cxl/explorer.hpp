// Explores every interleaving of a few programs over memory that no hardware keeps coherent.
//
// A program is an automaton that `Model` reveals: each local state has one operation. A host's copy
// of a line is either dirty, or clean and then of unknown age: it may be what memory held at any
// time since the host last invalidated it, because caches fetch and evict as they like. That set,
// with what the last load chose, is exact: no fetch or eviction is a step of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemill::cxl {

enum class Kind : uint8_t { Read, Write, WriteBack, Invalidate, Fence, Dead, Done, Violation };

struct Operation {
  Kind kind = Kind::Done;
  std::vector<uint16_t> lines;  // for Dead: the host asked about
};

// What the explorer must be told; each question is asked once.
struct Model {
  std::function<Operation(uint16_t local)> operation;
  std::function<uint16_t(uint16_t local, const std::vector<uint16_t>& contents)> next;
  std::function<uint16_t(uint16_t local, size_t position, uint16_t base)> written;
};

enum class What : uint8_t { Operation, WrittenBack, Crash };

struct Step {
  uint8_t host;
  What what;
  uint16_t which;  // local state before the operation, or the line written back
  uint16_t after;  // local state after it
};

struct Outcome {
  uint64_t states = 0, transitions = 0, finished = 0;
  bool is_complete = false;
  std::string violation;
  std::vector<Step> trace;  // shortest
};

class Explorer {
 public:
  static constexpr unsigned kMostContents = 56;  // of one line

  Explorer(Model model, unsigned hosts, std::vector<uint16_t> memory, std::vector<uint16_t> locals,
           std::vector<uint8_t> may_crash);

  // Breadth first; ends at the first violation, at `most_states`, or when `interrupted` says so.
  Outcome explore(uint64_t most_states, const std::function<bool()>& interrupted);

 private:
  using State = std::vector<uint16_t>;
  struct Origin {
    uint32_t parent;
    uint8_t host;
    What what;
    uint16_t which;
  };

  uint64_t copy_of(const State& state, unsigned host, unsigned line) const;
  void set_copy(State& state, unsigned host, unsigned line, uint64_t copy);
  void to_memory(State& state, unsigned host, unsigned line, uint16_t content);
  bool is_local(const Operation& operation) const;

  void expand(uint32_t index);
  void expand_operation(const State& state, unsigned host);
  void read(State state, unsigned host, const Operation& operation, std::vector<uint16_t>& chosen);
  void write(State state, unsigned host, const Operation& operation, size_t position);
  void fence(State state, unsigned host);
  void advance(State state, unsigned host, const std::vector<uint16_t>& contents);
  void add(const State& state, unsigned host, What what, uint16_t which);

  const Operation& operation(uint16_t local);
  uint16_t next(uint16_t local, const std::vector<uint16_t>& contents);
  uint16_t written(uint16_t local, size_t position, uint16_t base);

  std::span<const uint16_t> stored(uint32_t index) const;
  void grow();
  std::vector<Step> trace_to(uint32_t index) const;

  Model model_;
  unsigned hosts_, lines_;
  size_t width_;
  std::vector<uint8_t> may_crash_;
  std::vector<uint16_t> states_;
  std::vector<Origin> origins_;
  std::vector<uint32_t> table_;
  std::vector<uint64_t> copies_;
  std::unordered_map<uint64_t, uint16_t> copy_ids_;
  std::unordered_map<uint16_t, Operation> operations_;
  std::unordered_map<uint64_t, uint16_t> nexts_, writes_;
  uint32_t current_ = 0, violated_ = 0xFFFFFFFF;
  std::string violation_;
  Outcome outcome_;
};

}  // namespace tidemill::cxl
