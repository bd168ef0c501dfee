#pragma once
/// \file
/// What travels with a pass through the network beside the tensors: the context, the packing, and whoever listens.

#include <cstdint>
#include <functional>
#include <type_traits>

#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/context.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// A tensor that a layer reads, and one that it writes. The scalar is deduced from the pass, so any view that converts will do.
template <class T, int Rank>
using Input = std::type_identity_t<View<T const, Rank>>;
template <class T, int Rank>
using Output = std::type_identity_t<View<T, Rank>>;

/// Routers may decide otherwise while the network learns.
enum class Mode { inference, training };

/// What a training pass keeps for its backward pass.
enum class Keep {
  activations,  ///< what every layer computed: the most memory, the least arithmetic
  inputs,       ///< the residual stream and the routing; the rest is computed again
};

/// Receives intermediate tensors, (rows, width), while they are valid: "mixer_output" and "router_logits" of every layer.
/// Unset, it costs one branch.
template <Scalar T>
using Tap = std::function<void(Index layer, char const* what, View<T const, 2> value)>;

/// One pass of one or more sequences.
template <Context Ctx, Scalar T>
struct Pass {
  Ctx const& ctx;
  View<Index const, 1> offsets{};  ///< packed sequences: (S + 1) positions in the one row of the batch; absent: a batch of equals
  Mode mode = Mode::inference;
  Tap<T> const* tap = nullptr;
  Index layer = 0;                ///< index of the block that runs
  View<Token const, 1> tokens{};  ///< the rows' tokens, for routers that go by them
  std::uint64_t seed = 0;         ///< of the step, for routers that draw
  Arena* tape = nullptr;          ///< where a forward pass keeps what its backward pass needs
  Keep keep = Keep::activations;  ///< how much that is
  Arena* carry = nullptr;         ///< where layers take, once, what they carry over the passes of a step
  double auxiliary_scale = 1;     ///< of the gradients of the layers' own losses

  void show(char const* what, Input<T, 2> value) const {
    if (tap && *tap) (*tap)(layer, what, value);
  }
};

}  // namespace blackmamba
