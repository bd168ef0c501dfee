#pragma once
/// \file
/// What a network is, block by block, when a file says it: the input of building a model at run time.

#include <vector>

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba::io {

enum class FeedForward { none, dense, mixture };

/// One layer: a Mamba mixer, a feed-forward part, or both in parallel on the same residual.
struct LayerSpec {
  bool mamba = false;
  FeedForward feed_forward = FeedForward::none;
  Index experts = 0;  ///< of a mixture; a mixture of one expert still has its router

  friend constexpr bool operator==(LayerSpec const&, LayerSpec const&) = default;
};

struct ModelConfig {
  /// The published families: they differ in their blocks, their last norm and their tensors' names.
  enum class Family { blackmamba, mamba, mamba2 };

  Family family = Family::blackmamba;
  Dims dims{};  ///< n_experts: the most that a layer has; depth: the number of layers
  std::vector<LayerSpec> layers{};
  bool gated = false;                            ///< feed-forward parts are gated: activation(x0) · x1
  Activation activation = Activation::gelu_erf;  ///< of the feed-forward parts
  Index max_sequence_length = 0;                 ///< 0: not stated; the architecture itself has no limit

  friend bool operator==(ModelConfig const&, ModelConfig const&) = default;
};

constexpr char const* to_string(ModelConfig::Family family) {
  using Family = ModelConfig::Family;
  return family == Family::blackmamba ? "blackmamba" : family == Family::mamba ? "mamba" : "mamba2";
}

}  // namespace blackmamba::io
