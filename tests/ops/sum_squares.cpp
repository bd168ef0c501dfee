#include <blackmamba/ops/sum_squares/sum_squares.hpp>

#include <cmath>
#include <limits>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// A scalar as a tensor, for the comparison of the table.
Tensor<double, 1> one(double x) {
  Tensor<double, 1> out{Shape<1>{1}};
  out(0) = x;
  return out;
}

template <class T, class Ctx>
double solve(Ctx const& ctx, Tensor<T, 1> const& x) {
  return sum_squares(ctx, SumSquaresArgs<T>{.x = x});
}

}  // namespace

TEST_CASE_TEMPLATE("sum_squares: every scalar and length agrees with long double on every context", T, float, double, half, bf16) {
  for (Index n : {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 127, 1009, 16383, 16384, 16385, 40009}) {
    INFO(concat("n ", n));
    auto const x = test::random_tensor<T>(Shape{n}, 1, 3);
    auto const expected =
        one(static_cast<double>(sum_squares(Reference{}, SumSquaresArgs<long double>{.x = converted<long double>(x)})));
    verify::Cost const cost{.terms = static_cast<double>(n)};
    CHECK_CLOSE(verify::compare(one(solve(Reference{}, x)).view(), expected.view(), cost));
    CHECK_CLOSE(verify::compare(one(solve(Cpu{1}, x)).view(), expected.view(), cost));
    CHECK_CLOSE(verify::compare(one(solve(Cpu{2}, x)).view(), expected.view(), cost));
  }
}

TEST_CASE_TEMPLATE("sum_squares: whole numbers are summed exactly, each once", T, float, double, half, bf16) {
  for (Index n : {1, 31, 20011}) {
    Tensor<T, 1> x{Shape{n}};
    double expected = 0;
    for (Index i = 0; i < n; ++i) {
      auto const value = static_cast<double>(i % 200 - 100);
      x(i) = static_cast<T>(static_cast<accumulator_t<T>>(value));
      expected += value * value;
    }
    CHECK(solve(Reference{}, x) == expected);
    CHECK(solve(Cpu{2}, x) == expected);
  }
}

TEST_CASE_TEMPLATE("sum_squares: many pieces give the same bits on 1, 2 and 3 threads", T, float, double, bf16) {
  auto const x = test::random_tensor<T>(Shape<1>{1000003}, 5);
  double const one_thread = solve(Cpu{1}, x);
  CHECK(solve(Cpu{2}, x) == one_thread);
  CHECK(solve(Cpu{3}, x) == one_thread);
}

TEST_CASE_TEMPLATE("sum_squares: the largest floats do not overflow and the smallest do not vanish", Ctx, Reference, Cpu) {
  for (float extreme : {std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()}) {
    Tensor<float, 1> x{Shape<1>{21}};
    for (float& value : x) value = extreme;
    CHECK(solve(Ctx{}, x) / (static_cast<double>(extreme) * static_cast<double>(extreme)) == 21);
  }
}

TEST_CASE_TEMPLATE("sum_squares: one element that is not finite, anywhere, makes a sum that is not finite", T, float, double, half,
                   bf16) {
  for (Index at : {0, 8, 17, 20000, 20010})
    for (float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
      auto x = test::random_tensor<T>(Shape<1>{20011}, 1);
      x(at) = static_cast<T>(bad);
      CHECK_FALSE(std::isfinite(solve(Reference{}, x)));
      CHECK_FALSE(std::isfinite(solve(Cpu{2}, x)));
    }
}

TEST_CASE_TEMPLATE("sum_squares: a place for the sum gets what is returned, whatever it held", Ctx, Reference, Cpu) {
  auto const x = test::random_tensor<float>(Shape<1>{1001}, 1);
  Tensor<double, 1> sum = one(7), two{Shape<1>{2}};
  CHECK(sum_squares(Ctx{}, SumSquaresArgs<float>{.x = x, .sum = sum}) == solve(Ctx{}, x));
  CHECK(sum(0) == solve(Ctx{}, x));
  CHECK_THROWS_WITH_AS(sum_squares(Ctx{}, SumSquaresArgs<float>{.x = x, .sum = two}),
                       "sum_squares: sum has shape (2,), the one sum asks for (1,): extent 0 is 2, not 1", shape_error);
}

TEST_CASE("sum_squares: a strided array takes the reference path and gives the same value") {
  auto const x = test::random_tensor<float>(Shape<2>{37, 3}, 1);
  auto const column = x.view().transposed(0, 1)[1];
  CHECK(sum_squares(Cpu{2}, SumSquaresArgs<float>{.x = column}) == sum_squares(Reference{}, SumSquaresArgs<float>{.x = column}));
}

TEST_CASE("sum_squares: the derivative along itself is twice the sum, by dual numbers") {
  auto const x = test::random_tensor<double>(Shape<1>{23}, 1);
  auto dual = converted<Dual<double>>(x);
  for (auto& value : dual) value.tangent = value.value;
  auto const sum = sum_squares(Reference{}, SumSquaresArgs<Dual<double>>{.x = dual});
  CHECK_CLOSE(verify::compare(one(sum.tangent).view(), one(2 * sum.value).view(), {.terms = 23}));
}

TEST_CASE("sum_squares: nothing is allocated once the scratch memory has its size") {
  auto const x = test::random_tensor<float>(Shape<1>{100003}, 1);
  Cpu const ctx{2};
  double const first = solve(ctx, x);
  ctx.scratch().seal();
  CHECK(solve(ctx, x) == first);
}
