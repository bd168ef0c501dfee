#include <blackmamba/ops/top_k/top_k.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// By sorting, stably, so that equal elements stay in the order of their columns.
template <class T>
std::vector<int> sorted(View<T const, 1> row) {
  std::vector<int> order(static_cast<std::size_t>(row.extent(0)));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return widen(row[i]) > widen(row[j]); });
  return order;
}

template <class T, class Ctx>
void check(Ctx const& ctx, View<T const, 2> x, Index k, bool with_values) {
  INFO(concat(Ctx::name, ", x ", to_string(x.shape()), ", k ", k, ", values ", with_values));
  Index const rows = x.extent(0);
  Tensor<T, 2> values{Shape{rows, k}};
  Tensor<int, 2> indices{Shape{rows, k}};
  top_k(ctx, TopKArgs<T>{.x = x, .values = with_values ? values.view() : View<T, 2>{}, .indices = indices});
  for (Index r = 0; r < rows; ++r) {
    auto const expected = sorted(x[r]);
    bool same = true, same_values = true;
    for (Index j = 0; j < k; ++j) {
      same = same && indices(r, j) == expected[static_cast<std::size_t>(j)];
      same_values = same_values && values(r, j) == (with_values ? x(r, expected[static_cast<std::size_t>(j)]) : T(0));
    }
    CHECK(same);
    CHECK(same_values);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("top_k: equals the head of a stable sort, with ties and without, on every context", T, float, double, half,
                   bf16) {
  for (Index rows : {0, 1, 3})
    for (Index D : {0, 1, 3, 4, 5, 7, 8, 9, 127, 1009})
      for (double spread : {1.0, 30.0}) {
        auto x = test::random_tensor<T>(Shape{rows, D}, 1, spread);
        if (spread == 1.0)  // few distinct values
          for (T& v : x) v = static_cast<T>(std::nearbyint(widen(v)));
        for (Index k : {Index{0}, Index{1}, Index{2}, Index{8}, D / 2, D}) {
          if (k > D) continue;
          for (bool with_values : {true, false}) {
            check<T>(Reference{}, x, k, with_values);
            check<T>(Cpu{1}, x, k, with_values);
            check<T>(Cpu{2}, x, k, with_values);
          }
        }
      }
}

TEST_CASE("top_k: rising, falling, infinite and strided rows are all the same to it") {
  Index const D = 67;
  float const inf = std::numeric_limits<float>::infinity();
  Tensor<float, 2> x{Shape{Index{4}, D}}, columns{Shape{D, Index{4}}};
  for (Index i = 0; i < D; ++i) {
    x(0, i) = static_cast<float>(i), x(1, i) = static_cast<float>(-i);
    x(2, i) = i % 3 == 0 ? inf : -inf, x(3, i) = 0;
    for (Index r = 0; r < 4; ++r) columns(i, r) = x(r, i);
  }
  for (Index k : {Index{1}, Index{9}, D}) {
    check<float>(Reference{}, x, k, true);
    check<float>(Cpu{2}, x, k, true);
    check<float>(Cpu{2}, View<float const, 2>{columns.view()}.transposed(0, 1), k, true);
  }
}

TEST_CASE_TEMPLATE("top_k: a NaN anywhere is refused with the first one's row and column", Ctx, Reference, Cpu) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  for (Index column : {0, 1, 5, 17, 18}) {
    auto x = test::random_tensor<float>(Shape{Index{5000}, Index{19}}, 1);
    Tensor<int, 2> indices{Shape{Index{5000}, Index{2}}};
    x(7, column) = x(4999, 0) = nan;
    CHECK_THROWS_WITH_AS(top_k(Ctx{}, TopKArgs<float>{.x = x, .indices = indices}),
                         concat("top_k: x(7, ", column, ") is NaN").c_str(), value_error);
  }
}

TEST_CASE("top_k: the values carry their derivatives") {
  Tensor<Dual<double>, 2> x{Shape{Index{1}, Index{5}}}, values{Shape{Index{1}, Index{2}}};
  Tensor<int, 2> indices{Shape{Index{1}, Index{2}}};
  double const at[]{1, 9, 3, 9, 4};
  for (Index i = 0; i < 5; ++i) x(0, i) = {at[i], 0.5 + static_cast<double>(i)};
  top_k(Reference{}, TopKArgs<Dual<double>>{.x = x, .values = values, .indices = indices});
  CHECK(indices(0, 0) == 1);
  CHECK(indices(0, 1) == 3);
  CHECK(values(0, 0).tangent == 1.5);
  CHECK(values(0, 1).tangent == 3.5);
}

TEST_CASE("top_k: arguments that disagree are refused with their values") {
  Tensor<float, 2> x{Shape{Index{2}, Index{8}}}, values{Shape{Index{2}, Index{2}}};
  Tensor<int, 2> three{Shape{Index{2}, Index{3}}}, nine{Shape{Index{2}, Index{9}}}, rows{Shape{Index{1}, Index{3}}};
  CHECK_THROWS_WITH_AS(top_k(Reference{}, TopKArgs<float>{.x = x, .indices = nine}), "top_k: k is 9, and a row has only 8 elements",
                       value_error);
  CHECK_THROWS_WITH_AS(top_k(Reference{}, TopKArgs<float>{.x = x, .indices = rows}),
                       "top_k: indices has shape (1, 3), x asks for (2, 3): extent 0 is 1, not 2", shape_error);
  CHECK_THROWS_WITH_AS(top_k(Reference{}, TopKArgs<float>{.x = x, .values = values, .indices = three}),
                       "top_k: values has shape (2, 2), indices asks for (2, 3): extent 1 is 2, not 3", shape_error);
}
