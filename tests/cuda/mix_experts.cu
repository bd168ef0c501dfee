#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/mix_experts.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using verify::MixExpertsProblem;
using verify::MixExpertsSize;

namespace {

/// A problem on the device, with experts of the test's choice.
template <class T>
struct There {
  MixExpertsSize size;
  Cuda ctx;
  DeviceTensor<T, 2> x, bias1, bias2;
  DeviceTensor<T, 3> fc1, fc2;
  DeviceTensor<int, 2> experts;
  DeviceTensor<float, 2> weights;

  There(Cuda const& context, MixExpertsSize const& s, std::vector<int> const& chosen)
      : There{context, s, chosen, verify::Inputs<T>{3}} {}

  void operator()(View<T, 2> y, bool by_parts = false) const {
    MixExpertsArgs<T> const a{.x = x.view(),
                              .experts = experts.view(),
                              .weights = weights.view(),
                              .fc1 = fc1.view(),
                              .bias1 = size.with_bias ? bias1.view() : View<T, 2>{},
                              .fc2 = fc2.view(),
                              .bias2 = size.with_bias ? bias2.view() : View<T, 2>{},
                              .activation = size.kind,
                              .gated = size.gated,
                              .y = y};
    if (by_parts)
      detail::mix_experts_by_parts(ctx, a);
    else
      mix_experts(ctx, a);
  }
  Tensor<T, 2> run(bool by_parts = false) const {
    DeviceTensor<T, 2> const y{ctx, x.view().shape()};
    Tensor<T, 2> wrong{x.view().shape()};
    for (T& v : wrong) v = static_cast<T>(77.0f);
    upload(ctx, wrong.view(), y.view());
    (*this)(y.view(), by_parts);
    ctx.synchronize();
    return to_host(ctx, y);
  }

 private:
  There(Cuda const& context, MixExpertsSize const& s, std::vector<int> const& chosen, verify::Inputs<T> inputs)
      : There{context, s, chosen, MixExpertsProblem<T>{s, inputs}} {}
  There(Cuda const& context, MixExpertsSize const& s, std::vector<int> const& chosen, MixExpertsProblem<T> p)
      : size{s},
        ctx{context},
        x{to_device(ctx, p.x)},
        bias1{to_device(ctx, p.bias1)},
        bias2{to_device(ctx, p.bias2)},
        fc1{to_device(ctx, p.fc1)},
        fc2{to_device(ctx, p.fc2)},
        experts{to_device(ctx, filled(p.experts, chosen))},
        weights{to_device(ctx, p.weights)} {}
  static Tensor<int, 2> const& filled(Tensor<int, 2>& experts, std::vector<int> const& chosen) {
    for (Index i = 0; i < experts.size(); ++i) experts.data()[i] = chosen[static_cast<std::size_t>(i) % chosen.size()];
    return experts;
  }
};

}  // namespace

GPU_TEST_TEMPLATE("mix_experts on a GPU: every size of the public check agrees with the reference", T, float, double, Half, bf16) {
  auto const report = verify::check<MixExpertsProblem, T>(Cuda{});
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

GPU_TEST_TEMPLATE("mix_experts on a GPU: few tokens of one published width or the other agree with the reference", T, Half, bf16) {
  auto const kind = Activation::gelu_erf;
  auto const report = verify::check<MixExpertsProblem, T>(Cuda{}, {},
                                                          {{1, 1, 1, 136, 3072, kind},
                                                           {7, 1, 3, 1152, 72, kind},
                                                           {4, 2, 3, 1472, 40, kind},
                                                           {64, 1, 8, 264, 40, kind},
                                                           {64, 2, 16, 72, 136, kind},
                                                           {3, 1, 2, 1032, 72, kind, false},
                                                           {30, 2, 8, 40, 520, kind, false}});
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

GPU_TEST_TEMPLATE("mix_experts on a GPU: few tokens, however they are spread, have the bits of its parts", T, Half, bf16) {
  Cuda const ctx;
  std::vector<std::vector<int>> const spreads{
      {2}, {-1}, {0, 1, 2, 3}, {3, -1, 0}, {1, 1, 1, 1, 1, 2}, {2, 0, 2, 2, -1, 3, 1, 0, 2}};
  for (auto const& [tokens, k] : {std::pair<Index, Index>{1, 1}, {1, 3}, {8, 1}, {4, 2}, {9, 1}, {16, 2}, {32, 1}})
    for (auto const& [D, F] : {std::pair<Index, Index>{8, 8}, {136, 72}, {1152, 40}, {40, 1032}})
      for (auto const& spread : spreads) {
        if (D + F > 1000 && spread.size() != 3) continue;  // one of them is enough for sums of several stages
        bool const gated = D != 136, bias = F != 40;
        There<T> const there{ctx, {tokens, k, 4, D, F, Activation::gelu_erf, gated, bias}, spread};
        INFO(concat("tokens ", tokens, ", k ", k, ", D ", D, ", F ", F, ", spread of ", spread.size()));
        CHECK(test::same_bits(there.run(), there.run(true)));
      }
  // Sums so long that a block goes round its ring of stages more than once.
  for (Index const tokens : {8, 32})
    for (bool const gated : {true, false}) {
      There<T> const there{ctx, {tokens, 1, 4, 4104, 24, Activation::silu, gated}, {1, 1, 1, 1, 1, 2}};
      INFO(concat("tokens ", tokens, gated ? ", gated" : ""));
      CHECK(test::same_bits(there.run(), there.run(true)));
    }
  // More experts than a warp has lanes; as many assignments as one launch has.
  for (Index const tokens : {128, 256}) {
    std::vector<int> many;
    for (int i = 0; i < 256; ++i) many.push_back(i * 37 % 101 % 40 - 1);
    There<T> const there{ctx, {tokens, 256 / tokens, 40, 72, 136, Activation::silu}, many};
    CHECK(test::same_bits(there.run(), there.run(true)));
  }
}

GPU_TEST_TEMPLATE("mix_experts on a GPU: many tokens with one expert each agree with the reference", T, Half, bf16) {
  auto const report = verify::check<MixExpertsProblem, T>(
      Cuda{}, {}, {{300, 1, 4, 136, 72, Activation::gelu_erf}, {1000, 1, 3, 264, 136, Activation::silu, false}});
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

GPU_TEST_TEMPLATE("mix_experts on a GPU: many tokens with one expert each, however they are spread, have the bits of its parts", T,
                  Half, bf16) {
  Cuda const ctx;
  std::vector<std::vector<int>> const spreads{{2}, {-1}, {0, 1, 2, 3}, {-1, 0, 0, 3, 0}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, -1}};
  for (Index const tokens : {65, 300, 1025})
    for (auto const& [D, F] : {std::pair<Index, Index>{136, 72}, {392, 40}})
      for (auto const& spread : spreads) {
        bool const gated = D != 136, bias = F != 40;
        There<T> const there{ctx, {tokens, 1, 4, D, F, Activation::gelu_erf, gated, bias}, spread};
        INFO(concat("tokens ", tokens, ", D ", D, ", F ", F, ", spread of ", spread.size()));
        CHECK(test::same_bits(there.run(), there.run(true)));
      }
  // More experts than a warp has lanes, some of them without tokens.
  std::vector<int> many;
  for (int i = 0; i < 700; ++i) many.push_back(i * 37 % 101 % 40 - 1);
  There<T> const there{ctx, {700, 1, 41, 72, 136, Activation::silu}, many};
  CHECK(test::same_bits(there.run(), there.run(true)));
}

GPU_TEST("mix_experts on a GPU: the same bits again, and from a graph") {
  Cuda const ctx;
  for (Index const tokens : {1, 5, 24, 200}) {
    There<bf16> const there{ctx, {tokens, 1, 8, 264, 520, Activation::gelu_erf}, {3, 1, 7, 3, 0}};
    auto const first = there.run();
    CHECK(test::same_bits(there.run(), first));
    DeviceTensor<bf16, 2> const y{ctx, first.shape()};
    // Several in a row: each starts before the one before has ended.
    test::Graph const graph{ctx, [&] {
                              for (int i = 0; i < 4; ++i) there(y.view());
                            }};
    for (int i = 0; i < 2; ++i) {
      graph.replay();
      CHECK(test::same_bits(to_host(ctx, y), first));
    }
  }
}

GPU_TEST("mix_experts on a GPU: an expert that is none adds nothing, and is told by the next wait") {
  Cuda const ctx;
  for (Index const tokens : {3, 100})
    for (int const wrong : {-2, 4}) {
      There<bf16> const there{ctx, {tokens, 1, 4, 64, 72, Activation::silu}, {0, wrong, 2}};
      DeviceTensor<bf16, 2> const y{ctx, Shape<2>{tokens, 64}};
      there(y.view());
      CHECK_THROWS_AS(ctx.synchronize(), value_error);
      CHECK_NOTHROW(ctx.synchronize());
      auto const out = to_host(ctx, y);
      for (Index i = 0; i < 64; ++i) CHECK(static_cast<float>(out(1, i)) == 0);
    }
}
