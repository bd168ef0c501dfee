#pragma once
/// \file
/// A promise about weights, by which a GPU may read them early.

#include <blackmamba/core/context.hpp>

namespace blackmamba {

/// While one lives, its maker says that the weights which operations on the context get are not written by anything that is still
/// queued before the first of those operations has begun, nor by those operations. A GPU (core/cuda/overlap.cuh) then reads weights
/// for one operation while the one before still runs. On a host, where nothing is queued, it says nothing.
template <Context Ctx>
class AtRest {
 public:
  explicit AtRest(Ctx const&) {}
};

}  // namespace blackmamba
