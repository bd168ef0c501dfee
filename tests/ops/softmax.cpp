#include <blackmamba/ops/softmax/softmax.hpp>

#include <limits>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class T, class Ctx>
void check(Ctx const& ctx, Index rows, Index D, double spread) {
  INFO(concat(Ctx::name, ", rows ", rows, ", D ", D, ", spread ", spread));
  auto const x = test::random_tensor<T>(Shape{rows, D}, 1, spread);
  auto const x_exact = converted<double>(x);
  Tensor<T, 2> y{Shape{rows, D}};
  Tensor<double, 2> y_exact{Shape{rows, D}};
  verify::Cost const cost{.terms = static_cast<double>(D)};
  softmax(ctx, SoftmaxArgs<T>{.x = x, .y = y});
  softmax(Reference{}, SoftmaxArgs<double>{.x = x_exact, .y = y_exact});
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));
  log_softmax(ctx, SoftmaxArgs<T>{.x = x, .y = y});
  log_softmax(Reference{}, SoftmaxArgs<double>{.x = x_exact, .y = y_exact});
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));
}

}  // namespace

TEST_CASE_TEMPLATE("softmax: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index rows : {0, 1, 3})
    for (Index D : {0, 1, 3, 4, 5, 7, 8, 9, 127, 1009})
      for (double spread : {1.0, 30.0}) {
        check<T>(Reference{}, rows, D, spread);
        check<T>(Cpu{1}, rows, D, spread);
        check<T>(Cpu{2}, rows, D, spread);
      }
}

TEST_CASE_TEMPLATE("softmax: one thread and two give the same bits, and the output may be the input", T, float, double, half,
                   bf16) {
  Shape const shape{Index{37}, Index{1003}};
  auto const x = test::random_tensor<T>(shape, 1);
  Tensor<T, 2> one{shape};
  auto const bytes = static_cast<std::size_t>(one.size()) * sizeof(T);
  auto in_place = x.clone();
  softmax(Cpu{1}, SoftmaxArgs<T>{.x = x, .y = one});
  softmax(Cpu{2}, SoftmaxArgs<T>{.x = in_place, .y = in_place});
  CHECK(std::memcmp(one.data(), in_place.data(), bytes) == 0);
  in_place = x.clone();
  log_softmax(Cpu{1}, SoftmaxArgs<T>{.x = x, .y = one});
  log_softmax(Cpu{2}, SoftmaxArgs<T>{.x = in_place, .y = in_place});
  CHECK(std::memcmp(one.data(), in_place.data(), bytes) == 0);
}

TEST_CASE("softmax: strided columns, and rows with a stride, give what contiguous rows give") {
  Index const rows = 4, D = 11;
  auto const wide = test::random_tensor<float>(Shape{rows, 2 * D}, 1);
  auto const x = wide.view().slice(1, 3, D);
  Tensor<float, 2> packed{Shape{rows, D}}, columns{Shape{D, rows}}, y{Shape{rows, D}}, expected{Shape{rows, D}};
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < D; ++i) packed(r, i) = columns(i, r) = x(r, i);
  softmax(Cpu{2}, SoftmaxArgs<float>{.x = packed, .y = expected});
  softmax(Cpu{2}, SoftmaxArgs<float>{.x = x, .y = y});
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == expected.data()[i]);
  softmax(Reference{}, SoftmaxArgs<float>{.x = packed, .y = expected});
  softmax(Cpu{2}, SoftmaxArgs<float>{.x = columns.view().transposed(0, 1), .y = y});
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == expected.data()[i]);
}

TEST_CASE_TEMPLATE("softmax: a masked element has probability 0, and a row without a finite maximum is NaN", Ctx, Reference, Cpu) {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (Index D : {2, 8, 13}) {
    INFO("D ", D);
    Tensor<float, 2> x{Shape{Index{5}, D}}, y{Shape{Index{5}, D}}, log_y{Shape{Index{5}, D}};
    x(0, D - 1) = -inf;
    x(1, 0) = nan;
    x(2, D - 1) = nan;
    x(3, D - 1) = inf;
    for (Index i = 0; i < D; ++i) x(4, i) = -inf;
    softmax(Ctx{}, SoftmaxArgs<float>{.x = x, .y = y});
    log_softmax(Ctx{}, SoftmaxArgs<float>{.x = x, .y = log_y});
    CHECK(y(0, D - 1) == 0);
    CHECK(log_y(0, D - 1) == -inf);
    CHECK(y(0, 0) == 1.0f / static_cast<float>(D - 1));
    for (Index r = 1; r < 5; ++r) {
      INFO("row ", r);
      CHECK(std::isnan(y(r, D - 1)));
      CHECK(std::isnan(log_y(r, D - 1)));
      CHECK(std::isnan(y(r, 0)));
    }
  }
}

TEST_CASE_TEMPLATE("softmax: adding a constant to a row changes nothing, at the ends of the range too", T, float, double) {
  Index const D = 21;
  auto const steps = test::random_tensor<float>(Shape{Index{1}, D}, 1, 4);
  Tensor<T, 2> x{Shape{Index{3}, D}}, y{Shape{Index{3}, D}};
  for (Index i = 0; i < D; ++i) {
    T const step = static_cast<T>(std::nearbyint(steps(0, i)));  // integers, so that the sums below are exact
    x(0, i) = step, x(1, i) = step + T(1e6), x(2, i) = step - T(1e6);
  }
  auto const check_on = [&](auto const& ctx) {
    softmax(ctx, SoftmaxArgs<T>{.x = x, .y = y});
    for (Index i = 0; i < D; ++i) {
      CHECK(y(0, i) == y(1, i));
      CHECK(y(0, i) == y(2, i));
    }
  };
  check_on(Reference{});
  check_on(Cpu{2});
}

TEST_CASE("softmax: dual numbers give y (dx - sum y dx), and its logarithm dx - sum y dx") {
  Index const D = 13;
  auto const at = test::random_tensor<double>(Shape{Index{1}, D}, 1), along = test::random_tensor<double>(Shape{Index{1}, D}, 2);
  Tensor<Dual<double>, 2> x{Shape{Index{1}, D}}, y{Shape{Index{1}, D}}, log_y{Shape{Index{1}, D}};
  for (Index i = 0; i < D; ++i) x(0, i) = {at(0, i), along(0, i)};
  softmax(Reference{}, SoftmaxArgs<Dual<double>>{.x = x, .y = y});
  log_softmax(Reference{}, SoftmaxArgs<Dual<double>>{.x = x, .y = log_y});
  double mean = 0;
  for (Index i = 0; i < D; ++i) mean += y(0, i).value * along(0, i);
  Tensor<double, 1> got{Shape{2 * D}}, expected{Shape{2 * D}};
  for (Index i = 0; i < D; ++i) {
    got(i) = y(0, i).tangent, expected(i) = y(0, i).value * (along(0, i) - mean);
    got(D + i) = log_y(0, i).tangent, expected(D + i) = along(0, i) - mean;
  }
  CHECK_CLOSE(verify::compare(got.view(), expected.view(), verify::Cost{.terms = static_cast<double>(D)}));
}

TEST_CASE("softmax: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, y{Shape{Index{3}, Index{8}}};
  CHECK_THROWS_WITH_AS(softmax(Reference{}, SoftmaxArgs<float>{.x = x, .y = y}),
                       "softmax: y has shape (3, 8), x asks for (2, 8): extent 0 is 3, not 2", shape_error);
  CHECK_THROWS_WITH_AS(log_softmax(Cpu{1}, SoftmaxArgs<float>{.x = x, .y = y}),
                       "log_softmax: y has shape (3, 8), x asks for (2, 8): extent 0 is 3, not 2", shape_error);
}
