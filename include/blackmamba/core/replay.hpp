#pragma once
/// \file
/// Work that is done again and again on the same tensors. A host runs it each time; a GPU records it once, as a graph, and launches
/// all of it with one call.

#include <concepts>
#include <utility>

#include <blackmamba/core/context.hpp>

namespace blackmamba {

/// Calls `body` whenever it is called. On a GPU (core/cuda/graph.cuh) the first call runs it, so that scratch memory gets its size
/// and libraries are loaded, the second records and replays it, later ones replay what was recorded: what `body` does on the host
/// happens twice, and what it queues must be the same work on the same memory each time.
template <Context Ctx, std::invocable Body>
class Replay {
 public:
  Replay(Ctx const&, Body body) : body_{std::move(body)} {}
  void operator()() { body_(); }

 private:
  Body body_;
};
template <class Ctx, class Body>
Replay(Ctx const&, Body) -> Replay<Ctx, Body>;

}  // namespace blackmamba
