#include <blackmamba/ops/rms_norm/rms_norm.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Runs one problem in `T` on `ctx` and the same problem, from the same rounded inputs, in double on the reference.
template <class T, class Ctx>
void check(Ctx const& ctx, Index rows, Index D, bool with_x, bool with_residual) {
  using A = accumulator_t<T>;
  INFO(concat("rows ", rows, ", D ", D, ", x ", with_x, ", residual ", with_residual));
  auto const x = test::random_tensor<T>(Shape{rows, D}, 1);
  auto const weight = test::random_tensor<T>(Shape{D}, 2);
  auto residual = test::random_tensor<A>(Shape{rows, D}, 3);
  auto const x_exact = converted<double>(x);
  auto const weight_exact = converted<double>(weight);
  auto residual_exact = converted<double>(residual);
  Tensor<T, 2> y{Shape{rows, D}};
  Tensor<double, 2> y_exact{Shape{rows, D}};

  rms_norm(ctx, RmsNormArgs<T>{.x = with_x ? x.view() : View<T const, 2>{},
                               .weight = weight,
                               .residual = with_residual ? residual.view() : View<A, 2>{},
                               .y = y});
  rms_norm(Reference{}, RmsNormArgs<double>{.x = with_x ? x_exact.view() : View<double const, 2>{},
                                            .weight = weight_exact,
                                            .residual = with_residual ? residual_exact.view() : View<double, 2>{},
                                            .y = y_exact});
  verify::Cost const cost{.terms = static_cast<double>(D)};
  CHECK_CLOSE(verify::compare(y.view(), y_exact.view(), cost));
  CHECK_CLOSE(verify::compare(residual.view(), residual_exact.view(), cost));
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm: every scalar and shape agrees with the double reference on both contexts", T, float, double, half,
                   bf16) {
  for (Index rows : {0, 1, 3})
    for (Index D : {1, 7, 8, 9, 64, 127})
      for (bool with_x : {true, false})
        for (bool with_residual : {true, false}) {
          if (!with_x && !with_residual) continue;
          check<T>(Reference{}, rows, D, with_x, with_residual);
          check<T>(Cpu{2}, rows, D, with_x, with_residual);
        }
}

TEST_CASE("rms_norm: a strided last dimension takes the reference path and gives the same values") {
  auto const x = test::random_tensor<float>(Shape{Index{5}, Index{4}}, 1);
  auto const weight = test::random_tensor<float>(Shape{Index{5}}, 2);
  Tensor<float, 2> y{Shape{Index{4}, Index{5}}}, y_reference{Shape{Index{4}, Index{5}}};
  auto const columns = View<float const, 2>{x}.transposed(0, 1);
  rms_norm(Cpu{2}, RmsNormArgs<float>{.x = columns, .weight = weight, .y = y});
  rms_norm(Reference{}, RmsNormArgs<float>{.x = columns, .weight = weight, .y = y_reference});
  for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == y_reference.data()[i]);
}

TEST_CASE("rms_norm: arguments that disagree are refused with their extents") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, y{Shape{Index{2}, Index{7}}};
  Tensor<float, 1> weight{Shape{Index{8}}};
  CHECK_THROWS_WITH_AS(rms_norm(Reference{}, RmsNormArgs<float>{.x = x, .weight = weight, .y = y}),
                       "rms_norm: y has shape (2, 7), x asks for (2, 8): extent 1 is 7, not 8", shape_error);
}
