#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/activation_backward.hpp>
#include <blackmamba/verify/problems/elementwise.hpp>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using test::same_bits;

namespace {

constexpr Activation kinds[]{Activation::identity, Activation::relu,     Activation::relu_squared,
                             Activation::silu,     Activation::gelu_erf, Activation::gelu_tanh};

}  // namespace

GPU_TEST_TEMPLATE("elementwise operations on a GPU: every shape and option agrees with the double reference", T, float, double,
                  Half, bf16) {
  using namespace verify;
  Cuda const ctx;
  std::vector<ElementwiseSize> const large{{1, 4099}, {1031, 72}, {67, 2304}, {4099, 1}};
  expect_right(check<AddProblem, T>(ctx));
  expect_right(check<AddProblem, T>(ctx, {}, large));
  expect_right(check<ConvertProblem, T>(ctx));
  expect_right(check<ConvertProblem, T>(ctx, {}, large));
  expect_right(check<DecayProblem, T>(ctx));
  expect_right(check<DecayBackwardProblem, T>(ctx));
  expect_right(check<DecayBackwardProblem, T>(ctx, {}, large));
  expect_right(check<ActivationProblem, T>(ctx));
  expect_right(check<GatedUnitProblem, T>(ctx));
  expect_right(check<ActivationBackwardProblem, T>(ctx));
  expect_right(check<GatedUnitBackwardProblem, T>(ctx));
  for (auto kind : {Activation::silu, Activation::gelu_erf, Activation::gelu_tanh}) {
    std::vector<ActivationSize> const sizes{{67, 2304, kind}};
    expect_right(check<ActivationProblem, T>(ctx, {}, sizes));
    expect_right(check<GatedUnitBackwardProblem, T>(ctx, {}, sizes));
  }
  expect_right(check<ExpandHeadsProblem, T>(ctx));
  expect_right(check<ExpandHeadsBackwardProblem, T>(ctx));
  std::vector<ExpandHeadsSize> const heads{
      {1100, 36, 64, true, true, false}, {3, 700, 1}, {5, 70, 33, true, true, true}, {2, 1, 5000}};
  expect_right(check<ExpandHeadsProblem, T>(ctx, {}, heads));
  expect_right(check<ExpandHeadsBackwardProblem, T>(ctx, {}, heads));
}

GPU_TEST_TEMPLATE("maps on a GPU: any strides give the bits of contiguous matrices, and touch nothing else", T, float, bf16) {
  Cuda const ctx;
  for (Shape<2> const& shape : {Shape<2>{5, 48}, Shape<2>{9, 35}, Shape<2>{1, 7}}) {
    auto const gate = random_tensor<T>(shape, 1), value = random_tensor<T>(shape, 2), d_y = random_tensor<T>(shape, 3);
    std::vector<Tensor<T, 2>> expected;
    test::for_layouts([&](Layout in, Layout out) {
      Laid<T> const a{ctx, gate, in}, b{ctx, value, out}, c{ctx, d_y, in};
      std::vector<Laid<T>> results;
      for (int i = 0; i < 4; ++i) results.emplace_back(ctx, verify::unwritten<T>(shape), i % 2 ? in : out);
      add(ctx, AddArgs<T>{.a = a.view(), .b = b.view(), .y = results[0].view()});
      gated_unit_backward(ctx, GatedUnitBackwardArgs<T>{.kind = Activation::gelu_erf,
                                                        .gate = a.view(),
                                                        .value = b.view(),
                                                        .d_y = c.view(),
                                                        .d_gate = results[1].view(),
                                                        .d_value = results[2].view()});
      expand_heads(ctx, ExpandHeadsArgs<T>{.x = a.view().slice(1, 0, 1), .y = results[3].view()});
      for (std::size_t i = 0; i < results.size(); ++i) {
        auto got = results[i].result();
        if (expected.size() == i)
          expected.push_back(std::move(got));
        else
          CHECK(same_bits(got, expected[i]));
      }
    });
  }
}

GPU_TEST("expand_heads_backward on a GPU: any strides agree with the double reference") {
  Cuda const ctx;
  Shape<2> const shape{37, 5 * 16}, heads{37, 5};
  auto const x = random_tensor<bf16>(heads, 1), d_y = random_tensor<bf16>(shape, 2);
  Tensor<double, 2> d_x{heads};
  auto const wide_x = converted<double>(x), wide_d_y = converted<double>(d_y);
  expand_heads_backward(Reference{}, ExpandHeadsBackwardArgs<double>{
                                         .x = wide_x.view(), .softplus = true, .d_y = wide_d_y.view(), .d_x = d_x.view()});
  test::for_layouts([&](Layout in, Layout out) {
    Laid<bf16> const a{ctx, x, in}, c{ctx, d_y, out};
    Laid<bf16> result{ctx, verify::unwritten<bf16>(heads), out};
    expand_heads_backward(ctx,
                          ExpandHeadsBackwardArgs<bf16>{.x = a.view(), .softplus = true, .d_y = c.view(), .d_x = result.view()});
    CHECK_CLOSE(verify::compare(result.result().view(), d_x.view(), {.terms = 16, .scale = 4}));
  });
}

GPU_TEST_TEMPLATE("maps on a GPU: what is written may be what is read", T, float, bf16) {
  Cuda const ctx;
  Shape<2> const shape{33, 72};
  auto const a = random_tensor<T>(shape, 1), b = random_tensor<T>(shape, 2), c = random_tensor<T>(shape, 3);
  DeviceTensor<T, 2> const y{ctx, shape}, z{ctx, shape};
  for (auto kind : kinds) {
    auto const on_a = to_device(ctx, a), on_b = to_device(ctx, b), on_c = to_device(ctx, c);
    gated_unit(ctx, GatedUnitArgs<T>{.kind = kind, .gate = on_a.view(), .value = on_b.view(), .y = y});
    auto const expected = to_host(ctx, y);
    for (bool gate : {true, false}) {
      auto const first = to_device(ctx, a), second = to_device(ctx, b);
      auto const to = gate ? first.view() : second.view();
      gated_unit(ctx, GatedUnitArgs<T>{.kind = kind, .gate = first.view(), .value = second.view(), .y = to});
      CHECK(same_bits(to_host(ctx, to), expected));
    }
    gated_unit_backward(
        ctx, GatedUnitBackwardArgs<T>{
                 .kind = kind, .gate = on_a.view(), .value = on_b.view(), .d_y = on_c.view(), .d_gate = y, .d_value = z});
    auto const d_gate = to_host(ctx, y), d_value = to_host(ctx, z);
    for (int i = 0; i < 6; ++i) {
      DeviceTensor<T, 2> const t[]{to_device(ctx, a), to_device(ctx, b), to_device(ctx, c)};
      auto const to_gate = t[i % 3].view(), to_value = t[(i % 3 + 1 + i / 3) % 3].view();
      gated_unit_backward(
          ctx,
          GatedUnitBackwardArgs<T>{
              .kind = kind, .gate = t[0].view(), .value = t[1].view(), .d_y = t[2].view(), .d_gate = to_gate, .d_value = to_value});
      CHECK(same_bits(to_host(ctx, to_gate), d_gate));
      CHECK(same_bits(to_host(ctx, to_value), d_value));
      gated_unit_backward(
          ctx, GatedUnitBackwardArgs<T>{.kind = kind, .gate = on_a.view(), .value = on_b.view(), .d_y = on_c.view(), .d_value = y});
      CHECK(same_bits(to_host(ctx, y), d_value));
    }
  }
}

GPU_TEST("activations on a GPU: at infinities, NaN and zeros they are what the reference gives") {
  Cuda const ctx;
  double const infinite = HUGE_VAL;
  double const points[]{infinite, -infinite, std::nan(""), 0.0, -0.0, 1e30, -1e30, 3e-39, 88, -88, 200, -200, 13.5, -13.5};
  Tensor<float, 2> x{Shape<2>{1, static_cast<Index>(std::size(points))}};
  for (std::size_t i = 0; i < std::size(points); ++i) x.data()[i] = static_cast<float>(points[i]);
  auto const ones = [&] {
    Tensor<float, 2> t{x.shape()};
    for (float& one : t) one = 1;
    return t;
  }();
  auto const there = to_device(ctx, x), d_there = to_device(ctx, ones);
  DeviceTensor<float, 2> const y{ctx, x.shape()};
  for (auto kind : kinds) {
    INFO(to_string(kind));
    Tensor<float, 2> expected{x.shape()};
    activation(Reference{}, ActivationArgs<float>{.kind = kind, .x = x, .y = expected});
    activation(ctx, ActivationArgs<float>{.kind = kind, .x = there, .y = y});
    CHECK_CLOSE(verify::compare(to_host(ctx, y).view(), expected.view(), {}));
    activation_backward(Reference{}, ActivationBackwardArgs<float>{.kind = kind, .x = x, .d_y = ones, .d_x = expected});
    activation_backward(ctx, ActivationBackwardArgs<float>{.kind = kind, .x = there, .d_y = d_there, .d_x = y});
    CHECK_CLOSE(verify::compare(to_host(ctx, y).view(), expected.view(), {}));
  }
}

TEST_CASE_TEMPLATE_DEFINE("convert on a GPU: every pair of scalars rounds as the reference does" * doctest::skip(!test::gpu()),
                          Pair, convert_pairs) {
  using From = typename Pair::first_type;
  using To = typename Pair::second_type;
  Cuda const ctx;
  auto x = random_tensor<From>(Shape<2>{7, 613}, 1, 40);
  x(0, 0) = static_cast<From>(accumulator_t<From>(HUGE_VALF)), x(0, 1) = static_cast<From>(accumulator_t<From>(-3e38f));
  x(0, 2) = static_cast<From>(accumulator_t<From>(1e-30f)), x(0, 3) = static_cast<From>(accumulator_t<From>(6e-6f));
  auto const there = to_device(ctx, x);
  DeviceTensor<To, 2> const y{ctx, x.shape()};
  Tensor<To, 2> expected{x.shape()};
  convert(Reference{}, ConvertArgs<From, To>{.x = x, .y = expected});
  convert(ctx, ConvertArgs<From, To>{.x = there, .y = y});
  CHECK(same_bits(to_host(ctx, y), expected));
}
TEST_CASE_TEMPLATE_INVOKE(convert_pairs, std::pair<float, bf16>, std::pair<bf16, float>, std::pair<float, Half>,
                          std::pair<Half, float>, std::pair<bf16, Half>, std::pair<Half, bf16>, std::pair<double, bf16>,
                          std::pair<double, float>, std::pair<float, double>, std::pair<bf16, bf16>);

GPU_TEST("elementwise operations on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  Shape<2> const heads{1700, 36}, shape{1700, 36 * 64};
  auto const x = to_device(ctx, random_tensor<bf16>(heads, 1)), d_y = to_device(ctx, random_tensor<bf16>(shape, 2));
  auto const bias = to_device(ctx, random_tensor<bf16>(Shape<1>{36}, 3));
  DeviceTensor<bf16, 2> const d_x{ctx, heads}, y{ctx, shape};
  DeviceTensor<float, 1> const d_bias{ctx, Shape<1>{36}};
  auto const run = [&] {
    activation(ctx, ActivationArgs<bf16>{.kind = Activation::silu, .x = d_y.view(), .y = y});
    expand_heads_backward(ctx,
                          ExpandHeadsBackwardArgs<bf16>{
                              .x = x.view(), .bias = bias.view(), .softplus = true, .d_y = y.view(), .d_x = d_x, .d_bias = d_bias});
  };
  auto const reset = [&] { test::poison(ctx, d_x), set_zero(ctx, d_bias.view()); };
  test::expect_repeatable(ctx, reset, run, d_x, d_bias);
}
