#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/layer_norm.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>

#include <cmath>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using verify::Cost;
using verify::Inputs;
using verify::LayerNormProblem;
using verify::Output;
using verify::RmsNormProblem;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

template <class Size>
std::vector<Size> sizes() {
  std::vector<Size> out;
  for (Index r : {1, 5, 1700})
    for (Index D : {4, 124, 512, 516, 1152, 1156, 1540, 2048, 2052})
      if (r < 10 || D == 124)  // many rows are many blocks at any width, and long for the reference
        for (int bits = 1; bits < 4; ++bits) {
          Size size;
          size.rows = r, size.D = D;
          size.with_x = bits & 1, size.with_residual = bits & 2;
          out.push_back(size);
        }
  return out;
}

}  // namespace

namespace test {

struct BackwardSize {
  Index rows = 0, D = 0;
  bool residual = true, from_above = true, in_place = false;
};
inline std::string to_string(BackwardSize const& s) {
  return concat("rows ", s.rows, ", D ", s.D, s.residual ? ", residual" : "", s.from_above ? ", from above" : "",
                s.in_place ? ", d_x in the place of d_y" : "");
}

/// The gradients of either normalisation, as a problem that the library's check knows how to judge.
template <Scalar T, bool Centred>
struct NormBackwardProblem {
  using Size = BackwardSize;
  using A = accumulator_t<T>;
  using Args = std::conditional_t<Centred, LayerNormBackwardArgs<T>, RmsNormBackwardArgs<T>>;
  static constexpr char const* name = Centred ? "layer_norm_backward" : "rms_norm_backward";

  static void operation(auto const& ctx, Args const& a) {
    if constexpr (Centred)
      layer_norm_backward(ctx, a);
    else
      rms_norm_backward(ctx, a);
  }

  static std::vector<Size> sizes() {
    std::vector<Size> out;
    for (Index r : {0, 1, 5, 1700})
      for (Index D : {1, 3, 7, 4, 124, 512, 516, 1152, 1156, 1540, 2048, 2052})
        if (r < 10 || D == 7 || D == 124)
          for (int bits = 0; bits < 8; ++bits) out.push_back({r, D, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
    return out;
  }

  Size size;
  Tensor<T, 2> x, d_y;
  Tensor<T, 1> weight;
  Tensor<A, 2> residual, d_residual;
  Tensor<A, 1> d_weight, d_bias;
  Tensor<T, 2> d_x;
  double largest = 0;

  template <class Stored>
  NormBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.D})},
        weight{in.template storage<T>(Shape<1>{s.D})},
        residual{in.template accumulator<A>(Shape<2>{s.rows, s.D})},
        d_residual{in.template accumulator<A>(Shape<2>{s.rows, s.D})},
        d_weight{in.template accumulator<A>(Shape<1>{s.D})},
        d_bias{in.template accumulator<A>(Shape<1>{s.D})},
        d_x{verify::unwritten<T>(Shape<2>{s.rows, s.D})} {
    // The largest term of a row's gradient, s g, which the others may cancel: with one column they do, but for ε.
    for (Index r = 0; r < s.rows; ++r) {
      double squares = 0, sum = 0, g = 0;
      for (Index i = 0; i < s.D; ++i) {
        double const v = static_cast<double>(s.residual ? residual(r, i) : widen(x(r, i)));
        squares += v * v, sum += v;
        g = std::max(g, std::fabs(static_cast<double>(widen(d_y(r, i)) * widen(weight(i)))));
      }
      auto const D = static_cast<double>(s.D);
      double const variance = squares / D - (Centred ? sum / D * (sum / D) : 0);
      largest = std::max(largest, g / std::sqrt(std::max(0.0, variance) + 1e-5));
    }
  }

  auto args(auto& place) {
    Args a;
    a.weight = place.in(weight);
    if (size.residual)
      a.residual = place.in(residual);
    else
      a.x = place.in(x);
    if (size.in_place) d_x = d_y.clone();
    a.d_x = place.out(d_x);
    a.d_y = size.in_place ? View<T const, 2>{a.d_x} : place.in(d_y);
    if (size.from_above) a.d_residual = place.out(d_residual);
    a.d_weight = place.out(d_weight);
    if constexpr (Centred) a.d_bias = place.out(d_bias);
    return a;
  }

  auto outputs() const {
    // With a mean taken off, roundings of numbers of size 1 are amplified like the gradient itself where a row hardly varies.
    Cost const of_row{.terms = static_cast<double>(size.D), .scale = largest};
    Cost const of_columns{.terms = static_cast<double>(size.rows + size.D), .scale = 1};
    return std::tuple{Output{"d_x", d_x, of_row}, Output{"d_residual", d_residual, of_row, size.from_above},
                      Output{"d_weight", d_weight, of_columns}, Output{"d_bias", d_bias, of_columns, Centred}};
  }
};

}  // namespace test

namespace {

template <Scalar T>
using RmsBackward = test::NormBackwardProblem<T, false>;
template <Scalar T>
using LayerBackward = test::NormBackwardProblem<T, true>;

}  // namespace

GPU_TEST_TEMPLATE("rms_norm and layer_norm on a GPU: every shape and option agrees with the double reference", T, float, double,
                  Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<RmsNormProblem, T>(ctx));
  expect_right(verify::check<RmsNormProblem, T>(ctx, {}, sizes<verify::RmsNormSize>()));
  expect_right(verify::check<LayerNormProblem, T>(ctx));
  expect_right(verify::check<LayerNormProblem, T>(ctx, {}, sizes<verify::LayerNormSize>()));
}

GPU_TEST_TEMPLATE("rms_norm_backward and layer_norm_backward on a GPU: every shape and option agrees with the double reference", T,
                  float, double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<RmsBackward, T>(ctx));
  expect_right(verify::check<LayerBackward, T>(ctx));
}

GPU_TEST("norms on a GPU: forward and backward give the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  for (Index D : {1152, 37}) {
    Shape<2> const shape{1700, D};
    auto const x = to_device(ctx, random_tensor<bf16>(shape, 1)), d_y = to_device(ctx, random_tensor<bf16>(shape, 2));
    auto const weight = to_device(ctx, random_tensor<bf16>(Shape<1>{D}, 3));
    auto const stream = to_device(ctx, random_tensor<float>(shape, 4));
    DeviceTensor<bf16, 2> const y{ctx, shape}, d_x{ctx, shape};
    DeviceTensor<float, 1> const d_weight{ctx, Shape<1>{D}}, d_bias{ctx, Shape<1>{D}};
    auto const run = [&] {
      layer_norm(ctx, LayerNormArgs<bf16>{.x = x.view(), .weight = weight.view(), .bias = weight.view(), .y = y});
      layer_norm_backward(ctx, LayerNormBackwardArgs<bf16>{.weight = weight.view(),
                                                           .residual = stream.view(),
                                                           .d_y = y.view(),
                                                           .d_x = d_x,
                                                           .d_weight = d_weight,
                                                           .d_bias = d_bias});
      rms_norm(ctx, RmsNormArgs<bf16>{.x = d_x.view(), .weight = weight.view(), .y = y});
      rms_norm_backward(ctx, RmsNormBackwardArgs<bf16>{
                                 .x = y.view(), .weight = weight.view(), .d_y = d_y.view(), .d_x = d_x, .d_weight = d_weight});
    };
    auto const results = [&] {
      auto const zero = [&](DeviceTensor<float, 1> const& t) {
        detail::check_cuda(cudaMemsetAsync(t.data(), 0, static_cast<std::size_t>(t.size()) * 4, ctx.stream()), "memset");
      };
      std::tuple out{to_host(ctx, y), to_host(ctx, d_x), to_host(ctx, d_weight), to_host(ctx, d_bias)};
      zero(d_weight), zero(d_bias);
      return out;
    };
    results();  // leaves the sums at zero
    run();
    auto const expected = results();
    auto const expect_same = [&] {
      auto const got = results();
      CHECK(same_bits(std::get<0>(got), std::get<0>(expected)));
      CHECK(same_bits(std::get<1>(got), std::get<1>(expected)));
      CHECK(same_bits(std::get<2>(got), std::get<2>(expected)));
      CHECK(same_bits(std::get<3>(got), std::get<3>(expected)));
    };
    run();
    expect_same();
    test::Graph const graph{ctx, run};
    for (int i = 0; i < 2; ++i) {
      graph.replay();
      expect_same();
    }
  }
}
