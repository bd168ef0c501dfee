#pragma once
/// \file
/// The experts' networks where a token has one expert, with what they put out put back: how `mix_experts` ends on a GPU.

#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

namespace blackmamba {

/// Arguments of `expert_mlp_combine_on`.
template <Scalar T>
struct ExpertMlpCombineArgs {
  ExpertMlpArgs<T> mlp{};                     ///< x by place, (tokens, D); y by token, as `combine` writes it; no `hidden`
  View<Index const, 1> order{};               ///< (tokens) as `dispatch` wrote it, and so is
  View<Index const, 2> places{};              ///< (tokens, 1)
  View<accumulator_t<T> const, 2> weights{};  ///< (tokens, 1)
};

}  // namespace blackmamba
