#pragma once
/// \file
/// Configurations by name, for programs: the published sizes, and small ones to try things on.

#include <string_view>
#include <vector>

#include <blackmamba/io/config.hpp>
#include <blackmamba/model/networks.hpp>

namespace blackmamba::io {

namespace detail {

/// `pairs` times a Mamba block and a mixture.
inline ModelConfig mixture_preset(Dims dims) {
  ModelConfig config;
  config.family = ModelConfig::Family::blackmamba;
  config.dims = dims;
  config.gated = true;
  config.activation = Activation::gelu_erf;
  for (Index i = 0; i < dims.depth; ++i) {
    config.layers.push_back({.mamba = true});
    config.layers.push_back({.mamba = false, .feed_forward = FeedForward::mixture, .experts = dims.n_experts});
  }
  return config;
}

inline ModelConfig dense_preset(Dims dims) {
  ModelConfig config;
  config.family = ModelConfig::Family::mamba;
  config.dims = dims;
  for (Index i = 0; i < dims.depth; ++i) config.layers.push_back({.mamba = true});
  return config;
}

}  // namespace detail

/// Names that `preset` knows.
inline std::vector<std::string_view> preset_names() {
  return {"tiny", "mamba-130m", "blackmamba-340m-1.5b", "blackmamba-630m-2.8b"};
}

/// The configuration of that name. Throws `value_error` listing the names there are.
inline ModelConfig preset(std::string_view name) {
  if (name == "tiny") return detail::mixture_preset(blackmamba_tiny);
  if (name == "mamba-130m") return detail::dense_preset(mamba_130m);
  if (name == "blackmamba-340m-1.5b") return detail::mixture_preset(blackmamba_340m_1_5b);
  if (name == "blackmamba-630m-2.8b") return detail::mixture_preset(blackmamba_630m_2_8b);
  std::string known;
  for (auto const each : preset_names()) known += concat(known.empty() ? "" : ", ", each);
  throw value_error(concat("there is no preset '", name, "'; there are: ", known));
}

}  // namespace blackmamba::io
