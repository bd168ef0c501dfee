#include <blackmamba/ops/layer_norm/layer_norm.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

struct Options {
  bool x = true, residual = true, bias = true;
  double centre = 0;
};

/// Runs one problem in `T` on `ctx` and the same problem, from the same rounded inputs, in double on the reference.
template <class T, class Ctx>
void check(Ctx const& ctx, Index rows, Index D, Options const& options) {
  using A = accumulator_t<T>;
  INFO(concat("rows ", rows, ", D ", D, ", x ", options.x, ", residual ", options.residual, ", bias ", options.bias));
  auto const x = test::random_tensor<T>(Shape{rows, D}, 1, 1, options.centre);
  auto const weight = test::random_tensor<T>(Shape{D}, 2), bias = test::random_tensor<T>(Shape{D}, 4);
  auto residual = test::random_tensor<A>(Shape{rows, D}, 3);
  auto const x_exact = converted<double>(x), residual_in = converted<double>(residual);
  auto const weight_exact = converted<double>(weight), bias_exact = converted<double>(bias);
  auto residual_exact = residual_in.clone();
  Tensor<T, 2> y{Shape{rows, D}};
  Tensor<double, 2> y_exact{Shape{rows, D}};

  layer_norm(ctx, LayerNormArgs<T>{.x = options.x ? x.view() : View<T const, 2>{},
                                   .weight = weight,
                                   .bias = options.bias ? bias.view() : View<T const, 1>{},
                                   .residual = options.residual ? residual.view() : View<A, 2>{},
                                   .y = y});
  layer_norm(Reference{}, LayerNormArgs<double>{.x = options.x ? x_exact.view() : View<double const, 2>{},
                                                .weight = weight_exact,
                                                .bias = options.bias ? bias_exact.view() : View<double const, 1>{},
                                                .residual = options.residual ? residual_exact.view() : View<double, 2>{},
                                                .y = y_exact});
  verify::Cost const cost{.terms = static_cast<double>(D)};
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));
  CHECK_CLOSE(verify::compare(residual.view(), residual_exact.view(), cost));
}

}  // namespace

TEST_CASE_TEMPLATE("layer_norm: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index rows : {0, 1, 3})
    for (Index D : {1, 7, 8, 9, 64, 127})
      for (bool x : {true, false})
        for (bool residual : {true, false})
          for (bool bias : {true, false}) {
            if (!x && !residual) continue;
            Options const options{.x = x, .residual = residual, .bias = bias};
            check<T>(Reference{}, rows, D, options);
            check<T>(Cpu{1}, rows, D, options);
            check<T>(Cpu{2}, rows, D, options);
          }
}

TEST_CASE_TEMPLATE("layer_norm: a mean of 10^4 with a spread of 1 costs no digits", T, float, double) {
  for (Index D : {9, 64, 1152}) {
    Options const options{.residual = false, .centre = 1e4};
    check<T>(Reference{}, 5, D, options);
    check<T>(Cpu{2}, 5, D, options);
  }
}

TEST_CASE_TEMPLATE("layer_norm: one thread and two give the same bits, and y may alias x", T, float, double, half, bf16) {
  Index const rows = 300, D = 133;
  auto x = test::random_tensor<T>(Shape{rows, D}, 1);
  auto const weight = test::random_tensor<T>(Shape{D}, 2), bias = test::random_tensor<T>(Shape{D}, 3);
  Tensor<T, 2> one{Shape{rows, D}};
  layer_norm(Cpu{1}, LayerNormArgs<T>{.x = x, .weight = weight, .bias = bias, .y = one});
  layer_norm(Cpu{2}, LayerNormArgs<T>{.x = x, .weight = weight, .bias = bias, .y = x});
  CHECK(std::memcmp(one.data(), x.data(), static_cast<std::size_t>(x.size()) * sizeof(T)) == 0);
}

TEST_CASE("layer_norm: a strided last dimension takes the reference path and gives the same values") {
  auto const x = test::random_tensor<float>(Shape{Index{5}, Index{4}}, 1);
  auto const weight = test::random_tensor<float>(Shape{Index{5}}, 2);
  Tensor<float, 2> y{Shape{Index{4}, Index{5}}}, y_reference{Shape{Index{4}, Index{5}}};
  auto const columns = x.view().transposed(0, 1);
  layer_norm(Cpu{2}, LayerNormArgs<float>{.x = columns, .weight = weight, .y = y});
  layer_norm(Reference{}, LayerNormArgs<float>{.x = columns, .weight = weight, .y = y_reference});
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == y_reference.data()[i]);
}

TEST_CASE("layer_norm: dual numbers give the closed-form derivative") {
  using D = Dual<double>;
  Index const n = 11;
  double const epsilon = 1e-3;
  auto const x = test::random_tensor<double>(Shape{Index{1}, n}, 1), dx = test::random_tensor<double>(Shape{Index{1}, n}, 2);
  auto const weight = test::random_tensor<double>(Shape{n}, 3);
  Tensor<D, 2> x_dual{Shape{Index{1}, n}}, y{Shape{Index{1}, n}};
  Tensor<D, 1> weight_dual{Shape{n}};
  double mean = 0, d_mean = 0, variance = 0, covariance = 0;
  for (Index i = 0; i < n; ++i) {
    x_dual(0, i) = {x(0, i), dx(0, i)};
    weight_dual(i) = weight(i);
    mean += x(0, i) / n, d_mean += dx(0, i) / n;
  }
  for (Index i = 0; i < n; ++i) {
    variance += (x(0, i) - mean) * (x(0, i) - mean) / n;
    covariance += (x(0, i) - mean) * dx(0, i) / n;
  }
  layer_norm(Cpu{2}, LayerNormArgs<D>{.x = x_dual, .weight = weight_dual, .y = y, .epsilon = epsilon});

  // d y = w (dx - mean(dx) - normal · mean(normal dx)) / sqrt(variance + ε)
  double const scale = 1 / std::sqrt(variance + epsilon);
  Tensor<double, 2> tangent{Shape{Index{1}, n}}, expected{Shape{Index{1}, n}};
  for (Index i = 0; i < n; ++i) {
    tangent(0, i) = y(0, i).tangent;
    double const normal = (x(0, i) - mean) * scale;
    expected(0, i) = weight(i) * scale * (dx(0, i) - d_mean - normal * covariance * scale);
  }
  CHECK_CLOSE(verify::compare(tangent.view(), expected.view(), verify::Cost{.terms = static_cast<double>(n)}));
}

TEST_CASE("layer_norm: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, y{Shape{Index{2}, Index{8}}};
  Tensor<float, 1> weight{Shape{Index{8}}}, bias{Shape{Index{7}}};
  CHECK_THROWS_WITH_AS(layer_norm(Reference{}, LayerNormArgs<float>{.x = x, .weight = weight, .bias = bias, .y = y}),
                       "layer_norm: bias has shape (7,), x asks for (8,): extent 0 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(layer_norm(Reference{}, LayerNormArgs<float>{.weight = weight, .y = y}),
                       "layer_norm: neither x nor residual is given", value_error);
  CHECK_THROWS_WITH_AS(layer_norm(Reference{}, LayerNormArgs<float>{.x = x, .weight = weight, .y = y, .epsilon = -1}),
                       "layer_norm: epsilon is -1, not at least 0", value_error);
}
