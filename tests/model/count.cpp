#include <doctest/doctest.h>

#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>

using namespace blackmamba;

// The published counts, from the type and the sizes alone, while compiling.
static_assert(count_parameters<BlackMamba<>>(blackmamba_340m_1_5b).total == 1'458'462'072);
static_assert(count_parameters<BlackMamba<>>(blackmamba_340m_1_5b).active == 343'694'712);
static_assert(count_parameters<BlackMamba<>>(blackmamba_630m_2_8b).total == 2'783'213'584);
static_assert(count_parameters<BlackMamba<>>(blackmamba_630m_2_8b).active == 628'770'832);
static_assert(count_parameters<DenseMamba>(mamba_130m).total == 129'135'360);

TEST_CASE("count: a repeat and the same layers spelt out one by one have the same parameters, operations and state") {
  Dims const dims = blackmamba_tiny;
  MixedDims mixed;
  static_cast<Dims&>(mixed) = dims;
  for (Index i = 0; i < dims.depth; ++i) {
    mixed.layers.push_back({static_cast<std::size_t>(Alternative::mamba), dims});
    mixed.layers.push_back({static_cast<std::size_t>(Alternative::mixture), dims});
  }
  using Repeated = BlackMamba<>;
  using Spelt = PublishedMixture<>;
  CHECK(count_parameters<Repeated>(dims) == count_parameters<Spelt>(mixed));
  CHECK(flops_per_token<Repeated>(dims) == flops_per_token<Spelt>(mixed));
  CHECK(state_bytes<Repeated, bf16>(dims, 3) == state_bytes<Spelt, bf16>(mixed, 3));
}

TEST_CASE("count: the state of a sequence is its convolution inputs and its scan states") {
  Dims const d = blackmamba_tiny;
  Index const conv = (d.d_conv - 1) * d.inner(), scan = d.inner() * d.d_state;
  CHECK(state_bytes<BlackMamba<>, float>(d) == d.depth * (conv * 4 + scan * 4));
  CHECK(state_bytes<BlackMamba<>, bf16>(d) == d.depth * (conv * 2 + scan * 4));
}

TEST_CASE("count: operations of a token are two for each weight of a product it meets, and the scan's") {
  Dims const d = blackmamba_tiny;
  Index const I = d.inner(), R = d.rank(), N = d.d_state;
  Index const mamba = 2 * (2 * I * d.d_model + (R + 2 * N) * I + I * R + I * d.d_model) + 9 * I * N + 2 * I * d.d_conv;
  Index const mixture = 2 * (d.n_experts * d.d_model + 3 * d.d_ffn * d.d_model);
  CHECK(flops_per_token<BlackMamba<>>(d) == d.depth * (mamba + mixture) + 2 * d.vocab * d.d_model);
}
