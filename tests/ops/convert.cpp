#include <blackmamba/ops/convert/convert.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class From, class To, class Ctx>
void check(Ctx const& ctx) {
  for (Shape<2> const shape : {Shape<2>{0, 3}, Shape<2>{3, 0}, Shape<2>{1, 1}, Shape<2>{7, 13}, Shape<2>{2, 40000}}) {
    auto const x = test::random_tensor<From>(shape, 3, 2);
    Tensor<To, 2> y{shape};
    convert(ctx, ConvertArgs<From, To>{.x = x, .y = y});
    bool rounded_once = true;
    for (Index i = 0; i < x.size(); ++i)
      rounded_once &= widen(y.data()[i]) == widen(static_cast<To>(static_cast<accumulator_t<To>>(widen(x.data()[i]))));
    CHECK(rounded_once);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("convert: every element is rounded once to the other scalar", Ctx, Reference, Cpu) {
  check<float, float>(Ctx{}), check<double, double>(Ctx{}), check<float, bf16>(Ctx{}), check<float, half>(Ctx{});
  check<bf16, float>(Ctx{}), check<half, bf16>(Ctx{}), check<bf16, bf16>(Ctx{});
}

TEST_CASE("convert: rows and columns may have strides") {
  auto const x = test::random_tensor<float>(Shape<2>{6, 10}, 1, 1);
  Tensor<double, 2> y{Shape<2>{5, 6}};
  convert(Cpu{2}, ConvertArgs<float, double>{.x = x.view().slice(1, 3, 5), .y = y.view().transposed(0, 1)});
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 5; ++j) CHECK(y(j, i) == static_cast<double>(x(i, 3 + j)));
}

TEST_CASE("convert: shapes that disagree are refused with their extents") {
  Tensor<float, 2> const x{Shape<2>{2, 3}};
  Tensor<float, 2> y{Shape<2>{3, 2}};
  CHECK_THROWS_WITH_AS(convert(Reference{}, ConvertArgs<float, float>{.x = x, .y = y}), doctest::Contains("y has shape (3, 2)"),
                       shape_error);
}
