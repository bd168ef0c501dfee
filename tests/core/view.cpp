#include <blackmamba/core/view.hpp>

#include <numeric>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// 0, 1, 2, … in row-major order.
template <int Rank>
Tensor<int, Rank> counted(Shape<Rank> shape) {
  Tensor<int, Rank> out{shape};
  std::iota(out.begin(), out.end(), 0);
  return out;
}

}  // namespace

TEST_CASE("view: contiguous memory is row-major") {
  auto t = counted(Shape<3>{2, 3, 4});
  View<int, 3> const v = t;
  CHECK(v.strides() == Shape<3>{12, 4, 1});
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j)
      for (Index k = 0; k < 4; ++k) {
        CHECK(v(i, j, k) == 12 * i + 4 * j + k);
        CHECK(v[i][j][k] == v(i, j, k));
      }
  CHECK(v.size() == 24);
  CHECK(v.contiguous());
  CHECK(v.contiguous_rows());
}

TEST_CASE("view: a default-constructed view is absent, an empty tensor's view is present") {
  CHECK_FALSE(static_cast<bool>(View<int, 2>{}));
  Tensor<int, 2> const empty{Shape<2>{0, 3}};
  CHECK(static_cast<bool>(empty.view()));
  CHECK(empty.view().size() == 0);
  CHECK(empty.view().contiguous());
}

TEST_CASE("view: a slice starts later in the same memory with the same strides") {
  auto t = counted(Shape<3>{2, 3, 4});
  auto const s = t.view().slice(2, 1, 2);
  CHECK(s.shape() == Shape<3>{2, 3, 2});
  CHECK(s(1, 2, 0) == 21);
  CHECK(s(1, 2, 1) == 22);
  CHECK_FALSE(s.contiguous());
  CHECK(s.contiguous_rows());
  auto const outer = t.view().slice(0, 1, 1);
  CHECK(outer.contiguous());
  CHECK(outer(0, 0, 0) == 12);
  CHECK(t.view().slice(1, 3, 0).size() == 0);
  s(0, 0, 0) = 100;
  CHECK(t(0, 0, 1) == 100);
}

TEST_CASE("view: transposing exchanges extents and strides and moves nothing") {
  auto t = counted(Shape<3>{2, 3, 4});
  auto const s = t.view().transposed(0, 2);
  CHECK(s.shape() == Shape<3>{4, 3, 2});
  CHECK(s(3, 2, 1) == t(1, 2, 3));
  CHECK_FALSE(s.contiguous());
  CHECK_FALSE(s.contiguous_rows());
  CHECK(s.transposed(0, 2).contiguous());
}

TEST_CASE("view: extents of 1 are contiguous with any stride, and a broadcast is not contiguous") {
  int x[8]{};
  CHECK(View<int, 3>{x, Shape<3>{2, 1, 4}, Shape<3>{4, 99, 1}}.contiguous());
  CHECK_FALSE(View<int, 2>{x, Shape<2>{2, 4}, Shape<2>{0, 1}}.contiguous());
  CHECK(View<int, 2>{x, Shape<2>{2, 4}, Shape<2>{0, 1}}.contiguous_rows());
  CHECK_FALSE(View<int, 1>{x, Shape<1>{4}, Shape<1>{2}}.contiguous());
}

TEST_CASE("view: reshaping keeps the order of the elements and refuses other counts and gaps") {
  auto t = counted(Shape<3>{2, 3, 4});
  auto const r = t.view().reshaped(Shape<2>{6, 4});
  CHECK(r(5, 3) == 23);
  CHECK_THROWS_WITH_AS(t.view().reshaped(Shape<2>{5, 5}), "a contiguous view of shape (2, 3, 4) cannot be seen as (5, 5)",
                       shape_error);
  CHECK_THROWS_WITH_AS(t.view().transposed(0, 1).reshaped(Shape<1>{24}),
                       "a strided view of shape (3, 2, 4) cannot be seen as (24,)", shape_error);
}

TEST_CASE("view: outer dimensions fold into rows where their strides allow it") {
  auto t = counted(Shape<3>{2, 3, 4});
  SUBCASE("contiguous") {
    auto const rows = t.view().rows();
    CHECK(rows.shape() == Shape<2>{6, 4});
    CHECK(rows(4, 1) == t(1, 1, 1));
  }
  SUBCASE("a slice of the last dimension keeps the row stride") {
    auto const rows = t.view().slice(2, 2, 2).rows();
    CHECK(rows.shape() == Shape<2>{6, 2});
    CHECK(rows(4, 1) == t(1, 1, 3));
  }
  SUBCASE("one row a batch: the batch stride is the row stride") {
    auto const rows = t.view().slice(1, 1, 1).rows();
    CHECK(rows.shape() == Shape<2>{2, 4});
    CHECK(rows(1, 2) == t(1, 1, 2));
  }
  SUBCASE("a slice of the middle dimension does not fold") {
    CHECK_THROWS_WITH_AS(t.view().slice(1, 0, 2).rows(), "a view of shape (2, 2, 4) and strides (12, 4, 1) does not fold into rows",
                         shape_error);
  }
  SUBCASE("an empty batch folds into no rows") { CHECK(t.view().slice(1, 0, 0).rows().shape() == Shape<2>{0, 4}); }
  SUBCASE("a vector is one row") { CHECK(t.view()[1][2].rows().shape() == Shape<2>{1, 4}); }
  SUBCASE("a dimension of 1 in the middle of four") {
    auto u = counted(Shape<4>{2, 2, 3, 2});
    auto const rows = u.view().slice(1, 1, 1).slice(2, 2, 1).rows();
    CHECK(rows.shape() == Shape<2>{2, 2});
    CHECK(rows(1, 1) == u(1, 1, 2, 1));
    auto const more = u.view().slice(2, 2, 1).rows();
    CHECK(more.shape() == Shape<2>{4, 2});
    CHECK(more(3, 0) == u(1, 1, 2, 0));
    auto const middle = u.view().slice(1, 1, 1);  // (2, 1, 3, 2): rows 3 apart by 2, batches by 12
    CHECK_THROWS_AS(middle.rows(), shape_error);
  }
}

TEST_CASE("view: the last dimension splits in groups without moving memory") {
  auto t = counted(Shape<2>{3, 8});
  auto const split = split_last(t.view().slice(1, 2, 6), 3);
  CHECK(split.shape() == Shape<3>{3, 3, 2});
  CHECK(split(2, 1, 1) == t(2, 5));
}

TEST_CASE("view: a view of T is a view of T const, and constness does not come off") {
  static_assert(std::is_convertible_v<View<float, 2>, View<float const, 2>>);
  static_assert(!std::is_convertible_v<View<float const, 2>, View<float, 2>>);
  static_assert(std::is_trivially_copyable_v<View<float, 4>>);
}
