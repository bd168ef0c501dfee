#pragma once
/// \file
/// The networks that are published, as types, and the sizes they are published in.

#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/mamba.hpp>
#include <blackmamba/layers/mamba2.hpp>
#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/moe.hpp>
#include <blackmamba/layers/residual.hpp>
#include <blackmamba/layers/routers/list.hpp>
#include <blackmamba/model/count.hpp>
#include <blackmamba/model/stack.hpp>

namespace blackmamba {

/// BlackMamba: Mamba blocks and mixtures in turn. `R` routes; the published models route by top-1 sigmoid at inference.
template <class R = Top1Sigmoid, class E = GeGlu>
using BlackMamba = Stack<Repeat<Residual<RmsNorm, Mamba>, Residual<RmsNorm, MoE<R, E>>>>;

/// Whatever a published configuration may hold, layer by layer, with the router that its sizes name. The order of the alternatives
/// is that of `Alternative`.
template <class R = ConfiguredRouter, class E = ConfiguredUnit>
using PublishedMixture = Stack<Mixed<Residual<RmsNorm, Mamba>, Residual<RmsNorm, MoE<R, E>>, Residual<RmsNorm, Mlp<E>>,
                                     ParallelResidual<RmsNorm, Mamba, MoE<R, E>>, ParallelResidual<RmsNorm, Mamba, Mlp<E>>>>;

/// The alternatives of `PublishedMixture`.
enum class Alternative : std::size_t { mamba, mixture, mlp, mamba_and_mixture, mamba_and_mlp };

/// A dense Mamba, as in the `transformers` library.
using DenseMamba = Stack<Repeat<Residual<RmsNorm, Mamba>>, RmsNorm>;
/// A dense Mamba-2, as in the `transformers` library.
using DenseMamba2 = Stack<Repeat<Residual<RmsNorm, Mamba2>>, RmsNorm>;

/// BlackMamba 340M/1.5B: 15 pairs of a Mamba block and a mixture of 8.
inline constexpr Dims blackmamba_340m_1_5b{
    .vocab = 50304, .d_model = 1152, .d_state = 16, .d_conv = 4, .d_ffn = 3072, .n_experts = 8, .top_k = 1, .depth = 15};
/// BlackMamba 630M/2.8B: 18 pairs.
inline constexpr Dims blackmamba_630m_2_8b{
    .vocab = 50304, .d_model = 1472, .d_state = 16, .d_conv = 4, .d_ffn = 3872, .n_experts = 8, .top_k = 1, .depth = 18};
/// A Mamba of 130M parameters.
inline constexpr Dims mamba_130m{.vocab = 50280, .d_model = 768, .depth = 24};
/// Small enough for a laptop and for text as bytes.
inline constexpr Dims blackmamba_tiny{
    .vocab = 256, .d_model = 128, .d_state = 16, .d_conv = 4, .d_ffn = 256, .n_experts = 8, .top_k = 1, .depth = 3};

static_assert(count_parameters<BlackMamba<>>(blackmamba_340m_1_5b) == ParameterCount{1'458'462'072, 343'694'712});
static_assert(count_parameters<BlackMamba<>>(blackmamba_630m_2_8b).total == 2'783'213'584);

}  // namespace blackmamba
