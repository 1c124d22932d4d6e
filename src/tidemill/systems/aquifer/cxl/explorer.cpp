#include "explorer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace tidemill::cxl {

namespace {

constexpr uint64_t kDirty = uint64_t{1} << 63;
constexpr uint64_t kWriteBack = uint64_t{1} << 62;   // asked for, happens at the next fence
constexpr uint64_t kInvalidate = uint64_t{1} << 61;  // likewise
constexpr uint64_t kFlags = kDirty | kWriteBack | kInvalidate;
constexpr uint16_t kCrashed = 0xFFFF;
constexpr uint32_t kNone = 0xFFFFFFFF;

constexpr uint64_t bit(uint16_t content) { return uint64_t{1} << content; }

uint64_t hash(std::span<const uint16_t> state) {
  uint64_t mixed = 0x9E3779B97F4A7C15;
  for (size_t i = 0; i < state.size(); i += 4) {
    uint64_t word;
    std::memcpy(&word, state.data() + i, sizeof word);
    mixed = (std::rotl(mixed, 23) ^ word) * 0xD6E8FEB86659FD93;
  }
  return mixed ^ mixed >> 32;
}

}  // namespace

Explorer::Explorer(Model model, unsigned hosts, std::vector<uint16_t> memory,
                   std::vector<uint16_t> locals, std::vector<uint8_t> may_crash)
    : model_(std::move(model)),
      hosts_(hosts),
      lines_(static_cast<unsigned>(memory.size())),
      width_((hosts + memory.size() * (1 + hosts) + 3) / 4 * 4),
      may_crash_(std::move(may_crash)),
      table_(1 << 16, kNone) {
  if (hosts == 0 || locals.size() != hosts || may_crash_.size() != hosts)
    throw std::invalid_argument("each host needs a program");
  State first(width_, 0);
  std::copy(locals.begin(), locals.end(), first.begin());
  std::copy(memory.begin(), memory.end(), first.begin() + hosts);
  for (unsigned host = 0; host < hosts; ++host)
    for (unsigned line = 0; line < lines_; ++line) set_copy(first, host, line, bit(memory[line]));
  add(first, 0, What::Operation, 0);
}

Outcome Explorer::explore(uint64_t most_states, const std::function<bool()>& interrupted) {
  while (current_ < origins_.size() && violation_.empty() && origins_.size() < most_states) {
    expand(current_++);
    if (current_ % 65536 == 0 && interrupted()) break;
  }
  outcome_.states = origins_.size();
  outcome_.is_complete = current_ == origins_.size() && violation_.empty();
  outcome_.violation = violation_;
  if (!violation_.empty()) outcome_.trace = trace_to(violated_);
  return outcome_;
}

uint64_t Explorer::copy_of(const State& state, unsigned host, unsigned line) const {
  return copies_[state[hosts_ + lines_ + host * lines_ + line]];
}

void Explorer::set_copy(State& state, unsigned host, unsigned line, uint64_t copy) {
  const auto [found, is_new] = copy_ids_.try_emplace(copy, static_cast<uint16_t>(copies_.size()));
  if (is_new) copies_.push_back(copy);
  if (copies_.size() > 0xFFFF) throw std::runtime_error("too many different copies of lines");
  state[hosts_ + lines_ + host * lines_ + line] = found->second;
}

// A line of one host arrives in memory: others may fetch it from now on.
void Explorer::to_memory(State& state, unsigned host, unsigned line, uint16_t content) {
  state[hosts_ + line] = content;
  for (unsigned other = 0; other < hosts_; ++other) {
    if (state[other] == kCrashed) continue;
    const uint64_t copy = copy_of(state, other, line);
    if (other == host)
      set_copy(state, other, line, (copy & kInvalidate) | bit(content));
    else if ((copy & kDirty) == 0)
      set_copy(state, other, line, copy | bit(content));
  }
}

// Asking for a write-back or an invalidation changes nothing that another host can see, and comes
// to the same before and after every step of another: it needs no interleaving.
bool Explorer::is_local(const Operation& operation) const {
  return operation.kind == Kind::WriteBack || operation.kind == Kind::Invalidate;
}

void Explorer::expand(uint32_t index) {
  const auto found = stored(index);
  const State state(found.begin(), found.end());
  bool is_finished = true;
  for (unsigned host = 0; host < hosts_; ++host) {
    if (state[host] == kCrashed) continue;
    const Operation& next = operation(state[host]);
    if (is_local(next)) return expand_operation(state, host);
    is_finished = is_finished && next.kind == Kind::Done;
  }
  outcome_.finished += is_finished ? 1 : 0;
  for (unsigned host = 0; host < hosts_ && violation_.empty(); ++host) {
    if (state[host] == kCrashed) continue;
    expand_operation(state, host);
    for (unsigned line = 0; line < lines_; ++line) {
      const uint64_t copy = copy_of(state, host, line);
      if ((copy & kDirty) == 0) continue;
      State after = state;
      to_memory(after, host, line, static_cast<uint16_t>(copy & ~kFlags));
      add(after, host, What::WrittenBack, static_cast<uint16_t>(line));
    }
    if (may_crash_[host] != 0) {
      State after = state;
      after[host] = kCrashed;
      for (unsigned line = 0; line < lines_; ++line) set_copy(after, host, line, 0);
      add(after, host, What::Crash, 0);
    }
  }
}

void Explorer::expand_operation(const State& state, unsigned host) {
  const Operation next = operation(state[host]);
  switch (next.kind) {
    case Kind::Read: {
      std::vector<uint16_t> chosen;
      return read(state, host, next, chosen);
    }
    case Kind::Write:
      return write(state, host, next, 0);
    case Kind::WriteBack:
    case Kind::Invalidate: {
      State after = state;
      for (const uint16_t line : next.lines) {
        const uint64_t copy = copy_of(after, host, line);
        if (next.kind == Kind::Invalidate)
          set_copy(after, host, line, copy | kInvalidate);
        else if ((copy & kDirty) != 0)
          set_copy(after, host, line, copy | kWriteBack);
      }
      return advance(std::move(after), host, {});
    }
    case Kind::Fence:
      return fence(state, host);
    case Kind::Dead:
      return advance(state, host, {uint16_t{state[next.lines.at(0)] == kCrashed}});
    default:
      return;
  }
}

// Each line's copy may be of any age in its set; what was chosen is then what the cache holds,
// until it is evicted and fetched anew.
void Explorer::read(State state, unsigned host, const Operation& operation,
                    std::vector<uint16_t>& chosen) {
  if (chosen.size() == operation.lines.size()) return advance(std::move(state), host, chosen);
  const uint16_t line = operation.lines[chosen.size()];
  const uint64_t copy = copy_of(state, host, line);
  const bool is_dirty = (copy & kDirty) != 0;
  uint64_t ages = is_dirty ? bit(static_cast<uint16_t>(copy & ~kFlags)) : copy & ~kFlags;
  for (; ages != 0; ages &= ages - 1) {
    const auto content = static_cast<uint16_t>(std::countr_zero(ages));
    State after = state;
    if (!is_dirty)
      set_copy(after, host, line, (copy & kFlags) | bit(content) | bit(state[hosts_ + line]));
    chosen.push_back(content);
    read(std::move(after), host, operation, chosen);
    chosen.pop_back();
  }
}

void Explorer::write(State state, unsigned host, const Operation& operation, size_t position) {
  if (position == operation.lines.size()) return advance(std::move(state), host, {});
  const uint16_t line = operation.lines[position];
  const uint64_t copy = copy_of(state, host, line);
  uint64_t bases = (copy & kDirty) != 0 ? bit(static_cast<uint16_t>(copy & ~kFlags)) : copy;
  for (bases &= ~kFlags; bases != 0; bases &= bases - 1) {
    const auto base = static_cast<uint16_t>(std::countr_zero(bases));
    const uint16_t content = written(state[host], position, base);
    State after = state;
    set_copy(after, host, line, (copy & kInvalidate) | kDirty | content);
    for (unsigned other = 0; other < hosts_ && violation_.empty(); ++other) {
      if (other == host || (copy_of(state, other, line) & kDirty) == 0) continue;
      violation_ = "two hosts hold the same line dirty";
    }
    write(std::move(after), host, operation, position + 1);
  }
}

void Explorer::fence(State state, unsigned host) {
  for (unsigned line = 0; line < lines_; ++line) {
    const uint64_t copy = copy_of(state, host, line);
    if ((copy & kDirty) != 0 && (copy & (kWriteBack | kInvalidate)) != 0)
      to_memory(state, host, line, static_cast<uint16_t>(copy & ~kFlags));
    if ((copy & kInvalidate) != 0) set_copy(state, host, line, bit(state[hosts_ + line]));
  }
  advance(std::move(state), host, {});
}

void Explorer::advance(State state, unsigned host, const std::vector<uint16_t>& contents) {
  const uint16_t before = state[host];
  state[host] = next(before, contents);
  add(state, host, What::Operation, before);
}

void Explorer::add(const State& state, unsigned host, What what, uint16_t which) {
  ++outcome_.transitions;
  if (2 * origins_.size() >= table_.size()) grow();
  const size_t mask = table_.size() - 1;
  size_t at = hash(state) & mask;
  for (; table_[at] != kNone; at = (at + 1) & mask)
    if (std::ranges::equal(stored(table_[at]), state)) {
      if (!violation_.empty() && violated_ == kNone) violated_ = table_[at];
      return;
    }
  const auto index = static_cast<uint32_t>(origins_.size());
  if (!violation_.empty() && violated_ == kNone) violated_ = index;
  table_[at] = index;
  states_.insert(states_.end(), state.begin(), state.end());
  origins_.push_back({current_ == 0 ? 0 : current_ - 1, static_cast<uint8_t>(host), what, which});
  if (violation_.empty() && what == What::Operation &&
      operation(state[host]).kind == Kind::Violation) {
    violation_ = "program";
    violated_ = index;
  }
}

const Operation& Explorer::operation(uint16_t local) {
  const auto found = operations_.find(local);
  if (found != operations_.end()) return found->second;
  return operations_.emplace(local, model_.operation(local)).first->second;
}

uint16_t Explorer::next(uint16_t local, const std::vector<uint16_t>& contents) {
  if (contents.size() > 8) throw std::invalid_argument("a read of more than 8 lines");
  uint64_t key = contents.size() << 16 | local;
  for (const uint16_t content : contents) key = key * (kMostContents + 7) + content + 1;
  const auto found = nexts_.find(key);
  if (found != nexts_.end()) return found->second;
  const uint16_t after = model_.next(local, contents);
  nexts_.emplace(key, after);
  return after;
}

uint16_t Explorer::written(uint16_t local, size_t position, uint16_t base) {
  const uint64_t key = uint64_t{local} << 32 | position << 16 | base;
  const auto found = writes_.find(key);
  if (found != writes_.end()) return found->second;
  const uint16_t content = model_.written(local, position, base);
  if (content >= kMostContents) throw std::runtime_error("a line has too many contents");
  writes_.emplace(key, content);
  return content;
}

std::span<const uint16_t> Explorer::stored(uint32_t index) const {
  return {states_.data() + size_t{index} * width_, width_};
}

void Explorer::grow() {
  table_.assign(table_.size() * 2, kNone);
  const size_t mask = table_.size() - 1;
  for (uint32_t index = 0; index < origins_.size(); ++index) {
    size_t at = hash(stored(index)) & mask;
    while (table_[at] != kNone) at = (at + 1) & mask;
    table_[at] = index;
  }
}

std::vector<Step> Explorer::trace_to(uint32_t index) const {
  std::vector<Step> steps;
  for (; index != 0 && index < origins_.size(); index = origins_[index].parent) {
    const Origin& origin = origins_[index];
    steps.push_back({origin.host, origin.what, origin.which, stored(index)[origin.host]});
  }
  std::ranges::reverse(steps);
  return steps;
}

}  // namespace tidemill::cxl
