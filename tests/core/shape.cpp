#include <blackmamba/core/shape.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

TEST_CASE("shape: extents print as a tuple, and the number of elements is their product") {
  CHECK(to_string(Shape{2, 48, 256}) == "(2, 48, 256)");
  CHECK(to_string(Shape{7}) == "(7,)");
  CHECK(element_count(Shape{2, 48, 256}) == 24576);
  CHECK(element_count(Shape<3>{0, 5, 5}) == 0);
  CHECK(Shape<2>{1, 2} == Shape<2>{1, 2});
  CHECK_FALSE(Shape<2>{1, 2} == Shape<2>{2, 1});
}

TEST_CASE("shape: a product past 2^63 - 1 and a negative extent are refused with the extents") {
  Index const large = Index{1} << 32;
  CHECK(element_count(Shape<2>{large, (Index{1} << 31) - 1}) == large * ((Index{1} << 31) - 1));
  CHECK_THROWS_WITH_AS(element_count(Shape<2>{large, Index{1} << 31}),
                       "a tensor of shape (4294967296, 2147483648) has more than 2^63 - 1 elements", shape_error);
  CHECK_THROWS_WITH_AS(element_count(Shape<2>{3, -1}), "extent 1 of (3, -1) is negative", shape_error);
  CHECK(element_count(Shape<4>{large, large, large, 0}) == 0);
}

TEST_CASE("shape: a negative extent is refused behind an extent of 0 too") {
  CHECK_THROWS_AS(element_count(Shape<2>{0, -1}), shape_error);
  CHECK_THROWS_AS(element_count(Shape<2>{-1, 0}), shape_error);
}

TEST_CASE("shape: check_shape names the operation, the argument, both shapes and the first extent that differs") {
  CHECK_NOTHROW(check_shape("op", "x", Shape<2>{2, 3}, Shape<2>{2, 3}, "y"));
  CHECK_THROWS_WITH_AS(check_shape("op", "x", Shape<3>{2, 3, 4}, Shape<3>{2, 5, 6}, "y"),
                       "op: x has shape (2, 3, 4), y asks for (2, 5, 6): extent 1 is 3, not 5", shape_error);
  CHECK_NOTHROW(check_value(true, "op", "never"));
  CHECK_THROWS_WITH_AS(check_value(false, "op", "k is ", 3, ", x is ", 0.5, ", b is ", true), "op: k is 3, x is 0.5, b is true",
                       value_error);
}

TEST_CASE("shape: ceil_div counts the pieces, the short last one included") {
  CHECK(ceil_div(0, 4) == 0);
  CHECK(ceil_div(1, 4) == 1);
  CHECK(ceil_div(4, 4) == 1);
  CHECK(ceil_div(5, 4) == 2);
}

TEST_CASE("error: every error of the library can be caught as one, and numbers stand in their shortest exact form") {
  CHECK_THROWS_AS(throw shape_error("x"), error const&);
  CHECK_THROWS_AS(throw value_error("x"), error const&);
  CHECK_THROWS_AS(throw file_error("x"), error const&);
  CHECK_THROWS_AS(throw memory_error("x"), std::runtime_error const&);
  CHECK(concat("a", std::string{"b"}, 'c', 1, -2LL, 3u, 0.1, 0.1f, 1e300, false) == "abc1-230.10.11e+300false");
}
